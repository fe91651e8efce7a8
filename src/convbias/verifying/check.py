"""Two networks, side by side on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from .inputs import cases, randomised, resized
from .networks import Named, Network, network
from .verdict import Case, Verdict, compared

# For each input its axes that may have any size.
Dynamic = Sequence[Mapping[int, Any]]
# In units of the numbers' precision, relative to the largest output; and never more than so much.
ROUNDING, MOST = 1000.0, 0.05
CALLS = 3
BATCHES = (1, 3)
SMALLEST = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)


def verify(
    a: Any,
    b: Any,
    example_inputs: Sequence[Tensor],
    *,
    dynamic_shapes: Dynamic | None = None,
    random_statistics: bool = False,
    tolerance: float | None = None,
) -> Verdict:
    """Whether ``a`` and ``b`` are the same function.

    Each is a module, an exported program, an ONNX model or the path of one; ``b`` may also be a function that
    makes a module of ``a``'s, such as an optimizer. With ``random_statistics`` it gets a copy of ``a`` whose
    normalisations are random, for fresh ones hide errors.

    They are compared on the example, on random and constant inputs and on impulses at corners and edges;
    where ``dynamic_shapes`` names axes, one mapping for each input, at batches of 1 and 3, at the smallest
    size that ``a`` takes and at one between; each several times, with the first results kept, for a runtime
    may be right once only. In float64 where both can. ``tolerance`` is relative to the largest output;
    by default a thousand times the precision of the networks' numbers.

    Raises ValueError where ``a`` does not take the example.

    >>> conv = torch.nn.Conv2d(1, 1, 3, padding=1)
    >>> wrong = torch.nn.Sequential(torch.nn.ZeroPad2d(1), torch.nn.Conv2d(1, 1, 3))
    >>> x = torch.randn(1, 1, 8, 8)
    >>> bool(verify(conv, conv, [x])), bool(verify(conv, wrong, [x]))
    (True, False)
    """
    if isinstance(a, Module) and random_statistics:
        a = randomised(a)
    if not isinstance(b, Module) and callable(b):
        b = b(a)
    first, second = network(a), network(b)
    examples = [x.detach().cpu() for x in example_inputs]
    epsilon = max(
        first.epsilon, second.epsilon, torch.finfo(torch.float32).eps if not _double(examples) else 0.0
    )
    limit = min(ROUNDING * epsilon, MOST) if tolerance is None else tolerance
    (first, second), examples = _in_double(first, second, examples)
    try:
        first(examples)
    except Exception as error:
        raise ValueError(
            f"example_inputs={[tuple(x.shape) for x in examples]}: the network does not take them, "
            f"{type(error).__name__}: {error}"
        ) from error
    found = [_case("example", first, second, examples, limit)]
    for sizes in _sizes(first, examples, dynamic_shapes):
        found += [_case(name, first, second, inputs, limit) for name, inputs in cases(examples, sizes)]
    dtype = "float64" if _double(examples) else "float32"
    return Verdict(tuple(found), limit, dtype)


def _case(name: str, first: Network, second: Network, inputs: list[Tensor], limit: float) -> Case:
    expected, sizes = first([x.clone() for x in inputs]), tuple(tuple(x.shape) for x in inputs)
    results: list[Named] = []
    kept: Named = {}
    for call in range(CALLS):
        try:
            results.append(second([x.clone() for x in inputs]))
        except Exception as error:
            failure = f"the second network fails, {type(error).__name__}: {error}"
            return Case(name, sizes, failure=failure)
        if call == 0:
            kept = {label: y.clone() for label, y in results[0].items()}
    for call, result in enumerate(results):
        if not compared("", [], kept, result).apart <= limit:
            what = (
                "its first result was overwritten" if call == 0 else f"call {call + 1} gives another result"
            )
            return Case(name, sizes, failure=f"the second network is no function of its input: {what}")
    return compared(name, inputs, expected, kept)


def _sizes(
    first: Network, examples: list[Tensor], dynamic_shapes: Dynamic | None
) -> Iterator[list[tuple[int, ...]]]:
    """The shapes to compare at: the examples' and, where axes are dynamic, others that ``first`` takes."""
    own = [tuple(x.shape) for x in examples]
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
    moving = {axis for axis in axes if axes[axis] is not None and chosen(axis, size[axis])}
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
    return all(x.dtype == torch.float64 for x in examples if x.is_floating_point())
