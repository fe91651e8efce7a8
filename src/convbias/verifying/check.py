"""Two networks, side by side on the same inputs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.nn import Module

from .inputs import Axes, cases, checked, dynamic_axes, randomised, resized
from .networks import Named, Network, network
from .verdict import Case, Verdict, compared

# In units of the numbers' precision, relative to the largest output; and never more than so much.
ROUNDING, MOST = 1000.0, 0.05
CALLS = 3
BATCHES = (1, 3)
SMALLEST = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)


def verify(
    a: Any,
    b: Any,
    example_inputs: Sequence[Tensor] | Tensor,
    *,
    dynamic_shapes: Any = None,
    random_statistics: bool = False,
    tolerance: float | None = None,
) -> Verdict:
    """Whether ``a`` and ``b`` are the same function.

    Each is a module, an exported program, an ONNX model or the path of one; ``b`` may also be a function that
    makes a network of a copy of ``a``, such as an optimizer. With ``random_statistics`` both have random
    normalisations, for fresh ones hide errors.

    They are compared on the example, on random and constant inputs and on impulses at corners and edges;
    where ``dynamic_shapes`` names axes, in the words of ``torch.export.export``, at batches of 1 and 3, at
    the smallest size that ``a`` takes and at one between; each several times, with the first results kept,
    for a runtime may be right once only. Inputs that ``a`` itself does not take are skipped, and named. In
    float64 where both can. ``tolerance`` is relative to the largest output; by default a thousand times the
    precision of the networks' numbers. Outputs of whole numbers must be equal.

    Raises ValueError where ``a`` does not take the example, and where no output has a finite number: then
    there is nothing to compare.

    >>> conv = torch.nn.Conv2d(1, 1, 3, padding=1)
    >>> wrong = torch.nn.Sequential(torch.nn.ZeroPad2d(1), torch.nn.Conv2d(1, 1, 3))
    >>> x = torch.randn(1, 1, 8, 8)
    >>> bool(verify(conv, conv, [x])), bool(verify(conv, wrong, [x]))
    (True, False)
    """
    examples = [x.detach().cpu() for x in checked(example_inputs)]
    axes = dynamic_axes(dynamic_shapes, examples)
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance={tolerance}: must be a number, 0 or more")
    if isinstance(a, Module) and random_statistics:
        a = randomised(a)
    if callable(b) and not isinstance(b, (Module, ExportedProgram, Network)):
        b = b(copy.deepcopy(a))
    first, second = network(a), network(b)
    epsilon = max(
        first.epsilon, second.epsilon, torch.finfo(torch.float32).eps if not _double(examples) else 0.0
    )
    limit = min(ROUNDING * epsilon, MOST) if tolerance is None else tolerance
    (first, second), examples = _in_double(first, second, examples)
    try:
        first(examples)
    except Exception as error:
        raise ValueError(
            f"example_inputs={_shapes(examples)}: the network does not take them, "
            f"{type(error).__name__}: {error}"
        ) from error
    calls = [_tried("second", second, examples) for _ in range(CALLS)]
    copies = [copy.deepcopy(call) for call in calls]
    every = [("example", examples)]
    for sizes in _sizes(first, examples, axes):
        every += cases(examples, sizes)
    found, skipped, told = list[Case](), list[str](), False
    for name, inputs in every:
        expected = _tried("first", first, inputs)
        if isinstance(expected, str):
            skipped.append(name)
            continue
        told = told or any(map(_tells, expected.values()))
        found.append(_case(name, expected, second, inputs))
    if not told:
        raise ValueError(
            "a: nothing can be compared, for the network's outputs are empty or not finite on every input"
        )
    found += [
        _again(call, kept, copies[0], examples, limit) for call, kept in zip(calls, copies, strict=True)
    ]
    return Verdict(tuple(found), limit, "float64" if _double(examples) else "float32", tuple(skipped))


def _case(name: str, expected: Named, second: Network, inputs: list[Tensor]) -> Case:
    found = _tried("second", second, inputs)
    if isinstance(found, str):
        return Case(name, _shapes(inputs), failure=found)
    return compared(name, inputs, expected, found)


def _tells(output: Any) -> bool:
    """Whether an output has anything that can be compared."""
    return bool(output.isfinite().any()) if isinstance(output, Tensor) else output is not None


def _again(
    call: Named | str, kept: Named | str, first: Named | str, inputs: list[Tensor], limit: float
) -> Case:
    """Whether a call gave what the first one did, and kept it while others followed."""
    for known, what in (
        (kept, "its result is overwritten later"),
        (first, "the next call gives another result"),
    ):
        if isinstance(call, str) or isinstance(known, str):
            return Case("again", _shapes(inputs), failure=str(call))
        if not compared("", inputs, known, call).apart <= limit:
            return Case(
                "again", _shapes(inputs), failure=f"the second network is no function of its input: {what}"
            )
    return Case("again", _shapes(inputs))


def _tried(which: str, network: Network, inputs: list[Tensor]) -> Named | str:
    """What the network makes of ``inputs``, or how it fails."""
    try:
        return network([x.clone() for x in inputs])
    except Exception as error:  # whatever a network raises
        return f"the {which} network fails, {type(error).__name__}: {error}"


def _shapes(inputs: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in inputs]


def _sizes(
    first: Network, examples: list[Tensor], dynamic_shapes: Axes | None
) -> Iterator[list[tuple[int, ...]]]:
    """The shapes to compare at: the examples' and, where axes are dynamic, others that ``first`` takes."""
    own = _shapes(examples)
    yield own
    if not dynamic_shapes:
        return
    batch = [
        _with(size, axes, lambda axis, n: axis == 0) for size, axes in zip(own, dynamic_shapes, strict=True)
    ]
    for number in BATCHES:
        sizes = [change(number) for change in batch]
        if sizes != own and _takes(first, examples, sizes):
            yield sizes
    space = [
        _with(size, axes, lambda axis, n: axis != 0) for size, axes in zip(own, dynamic_shapes, strict=True)
    ]
    legal = [
        sizes
        for number in SMALLEST
        if (sizes := [change(number) for change in space]) != own and _takes(first, examples, sizes)
    ]
    yield from legal[:1]
    yield from legal[len(legal) // 2 : len(legal) // 2 + 1] if len(legal) > 1 else []


def _with(
    size: tuple[int, ...], axes: Mapping[int, Any], chosen: Callable[[int, int], bool]
) -> Callable[[int], tuple[int, ...]]:
    moving = {axis for axis in axes if chosen(axis, size[axis])}
    return lambda number: tuple(number if axis in moving else n for axis, n in enumerate(size))


def _takes(first: Network, examples: list[Tensor], sizes: list[tuple[int, ...]]) -> bool:
    try:
        first([resized(x, size) for x, size in zip(examples, sizes, strict=True)])
    except Exception:
        return False
    return True


def _in_double(
    first: Network, second: Network, examples: list[Tensor]
) -> tuple[tuple[Network, Network], list[Tensor]]:
    """Both networks and the examples in float64, or as they were where one of them cannot."""
    doubled = first.in_double(), second.in_double()
    inputs = [x.double() if x.is_floating_point() else x for x in examples]
    try:
        if doubled[0] is None or doubled[1] is None:
            return (first, second), examples
        doubled[0](inputs)
        doubled[1](inputs)
    except Exception:
        return (first, second), examples
    return (doubled[0], doubled[1]), inputs


def _double(examples: list[Tensor]) -> bool:
    numbers = [x for x in examples if x.is_floating_point() or x.is_complex()]
    return all(x.dtype == torch.float64 for x in numbers)
