"""Two networks, side by side on the same inputs."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, final

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.nn import Module

from .axes import at_one_size, dynamic_axes
from .inputs import cases, checked, counted, randomised, resized, statistics_of
from .networks import ModuleNetwork, Named, Network, network
from .sizes import shapes
from .verdict import Case, Verdict, check_outputs, compared, fractional, other_type, scale, wide

# In units of the precision of the networks' numbers; and never more than so much.
ROUNDING, MOST = 1000.0, 0.05
# The same where both compute in float64, and the networks' own numbers alone are rounded; and never less.
STORED, MOST_STORED, LEAST = 64.0, 0.02, 1e-9
CALLS = 3


@final
class Unsteady(ValueError):
    """The first network gives another result for the same input."""


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
    the smallest size that ``a`` takes and at others, no two axes alike, or near the example's where ``a``
    takes few; the verdict names axes that no other size was found for. The example several times, with the
    first results kept, for a runtime may be right once only. Inputs that ``a`` itself does not take are
    skipped, and named. In float64 where both can. ``tolerance`` is relative to the largest output of the same
    channel; by default so much as the precision explains of the numbers that ``a`` makes its outputs of.
    Whole numbers must be equal, and outputs of modules in the same places of tuples, lists and dicts.

    What modules draw at random is the same at every call. Raises ValueError where ``a`` does not take the
    example, where it is no function of its input, and where no output has a finite number: then there is
    nothing to compare.

    >>> conv = torch.nn.Conv2d(1, 1, 3, padding=1)
    >>> wrong = torch.nn.Sequential(torch.nn.ZeroPad2d(1), torch.nn.Conv2d(1, 1, 3))
    >>> x = torch.randn(1, 1, 8, 8)
    >>> bool(verify(conv, conv, [x])), bool(verify(conv, wrong, [x]))
    (True, False)
    """
    examples = [x.detach().cpu() for x in checked(example_inputs)]
    axes = dynamic_axes(dynamic_shapes, examples)
    if tolerance is not None and not (isinstance(tolerance, Real) and 0 <= tolerance < math.inf):
        raise ValueError(f"tolerance={tolerance!r}: must be a number, 0 or more")
    if random_statistics:
        a, b = _randomised(a, b)
    if callable(b) and not isinstance(b, (Module, ExportedProgram, Network)):
        b = b(copy.deepcopy(a))
    first, second = network(a), network(b)
    in_order = not (isinstance(first, ModuleNetwork) and isinstance(second, ModuleNetwork))
    for one in (first, second):
        one.check(examples)
    native, stored = _measured(first, examples)
    check_outputs(native)
    made = _tried("second", second.copied(), examples)
    unlike = made if isinstance(made, str) else "" if in_order else other_type(native, made)
    found = [Case("example", _shapes(examples), failure=unlike)] if unlike else []
    (first, second), examples, computed = _in_double(first, second, examples, stored)
    if tolerance is None:
        tolerance = _rounding(stored, computed)
    usual = copy.deepcopy(first(examples))
    if not compared("", examples, usual, first(examples)).apart <= tolerance:
        raise Unsteady(
            "a: is no function of its input, for the next call gives another result (it keeps a state, or "
            "draws numbers of its own): nothing can be compared"
        )
    # Constants may cancel to almost nothing, which rounding is not to be measured by.
    least = {name: scale(y) for name, y in usual.items() if fractional(y) and y.numel()}
    calls = [_tried("second", second, examples) for _ in range(CALLS)]
    copies = [copy.deepcopy(call) for call in calls]
    every = [("example", examples)]
    for sizes, whole in shapes(examples, axes, lambda sizes: _takes(first, examples, sizes)):
        named = cases(examples, sizes)
        every += named if whole else itertools.islice(named, 1)
    taken = counted(examples, lambda inputs: not isinstance(_tried("first", first, inputs), str))
    every += [("indices", inputs) for inputs in taken]
    skipped, told = list[str](), False
    for name, inputs in every:
        expected = _tried("first", first, inputs)
        if isinstance(expected, str):
            skipped.append(name)
            continue
        told = told or any(map(_tells, expected.values()))
        other = _tried("second", second, inputs)
        if isinstance(other, str):
            found.append(Case(name, _shapes(inputs), failure=other))
        else:
            found.append(compared(name, inputs, expected, other, in_order, least))
    if not told:
        raise ValueError(
            "a: nothing can be compared, for the network's outputs are empty or not finite on every input"
        )
    alone = at_one_size(_shapes(examples), axes or [], [case.sizes for case in found])
    found += [
        _again(call, kept, copies[0], examples, tolerance) for call, kept in zip(calls, copies, strict=True)
    ]
    dtype = "float64" if _double(examples) else "float32"
    return Verdict(tuple(found), tolerance, dtype, tuple(skipped), alone)


def rounding_of(a: Module, examples: Sequence[Tensor]) -> float:
    """The tolerance for a network whose weights were rounded once more, one after another."""
    _, stored = _measured(ModuleNetwork(a), examples)
    return min(max(ROUNDING * stored, LEAST), MOST)


def _measured(first: Network, examples: Sequence[Tensor]) -> tuple[Named, float]:
    """What the network makes of the example, and the precision of the coarsest numbers that it made it of."""
    try:
        return first.copied().measured(examples)
    except Exception as error:  # whatever a network raises
        raise ValueError(
            f"example_inputs={_shapes(examples)}: the network does not take them, "
            f"{type(error).__name__}: {error}"
        ) from error


def _randomised(a: Any, b: Any) -> tuple[Any, Any]:
    """Both with the same random normalisations; a function that makes a network stays as it is."""
    a, b = (x.module(check_guards=False) if isinstance(x, ExportedProgram) else x for x in (a, b))
    if not isinstance(a, Module):
        raise ValueError("random_statistics: needs a module or an exported program, for a file's stay")
    if not isinstance(b, Module):
        return randomised(a), b
    if statistics_of(a) != statistics_of(b):
        raise ValueError(
            "random_statistics: both networks need the same normalisations, and these have others; "
            "let b be a function that makes its network of a copy of a"
        )
    return randomised(a), randomised(b)


def _rounding(stored: float, computed: float) -> float:
    """What explains differences: numbers ``stored`` with one precision and ``computed`` with another."""
    if computed <= torch.finfo(torch.float64).eps:
        return max(min(STORED * stored, MOST_STORED), LEAST)
    return min(ROUNDING * max(stored, computed), MOST)


def _tells(output: Any) -> bool:
    """Whether an output has anything that can be compared."""
    return bool(wide(output).isfinite().any()) if isinstance(output, Tensor) else output is not None


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
        return network(inputs)
    except Exception as error:  # whatever a network raises
        return f"the {which} network fails, {type(error).__name__}: {error}"


def _shapes(inputs: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in inputs]


def _takes(first: Network, examples: list[Tensor], sizes: list[tuple[int, ...]]) -> bool:
    try:
        first([resized(x, size) for x, size in zip(examples, sizes, strict=True)])
    except Exception:
        return False
    return True


def _in_double(
    first: Network, second: Network, examples: list[Tensor], stored: float
) -> tuple[tuple[Network, Network], list[Tensor], float]:
    """Both networks and the examples in float64, or as they were where one of them cannot.

    With the precision of the coarsest numbers that their outputs are made of, for a network may cast to
    others on its way; no coarser ones excuse the second network than the first one's own, ``stored``.
    """
    doubled = first.in_double(), second.in_double()
    inputs = [x.double() if x.is_floating_point() else x for x in examples]
    try:
        if doubled[0] is None or doubled[1] is None:
            return (first, second), examples, torch.finfo(torch.float32).eps
        _, one = doubled[0].copied().measured(inputs)
        _, other = doubled[1].copied().measured(inputs)
    except Exception:
        return (first, second), examples, torch.finfo(torch.float32).eps
    return (doubled[0], doubled[1]), inputs, max(one, min(other, stored))


def _double(examples: list[Tensor]) -> bool:
    numbers = [x for x in examples if x.is_floating_point() or x.is_complex()]
    return all(x.dtype == torch.float64 for x in numbers)
