"""How far two networks' outputs are apart, on the border and inside, and where most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor

# A channel whose entries are so small beside the largest is measured by this part of it.
QUIET = 1e-3


@final
@dataclass(frozen=True)
class Case:
    """One input and what two networks made of it.

    ``border`` and ``interior`` are the largest differences relative to the first network's largest entry of
    the same channel: on the outermost entries of outputs (N, C, *space), and on all others. ``worst`` is
    where the larger one is. ``failure`` says what kept the networks from being compared.
    """

    name: str
    sizes: Sequence[tuple[int, ...]]
    border: float = 0.0
    interior: float = 0.0
    worst: str = ""
    failure: str = ""

    @property
    def apart(self) -> float:
        """The larger of both differences."""
        return max(self.border, self.interior)


@final
@dataclass(frozen=True)
class Verdict:
    """Whether two networks are the same function, as far as the ``cases`` can tell. True if they are.

    ``tolerance`` is the largest difference that counts as rounding, ``dtype`` what was computed in.
    ``skipped`` names the inputs that the first network itself does not take, ``at_one_size`` the dynamic
    axes of which no size but the example's was compared: nothing is known of others.
    """

    cases: tuple[Case, ...]
    tolerance: float
    dtype: str
    skipped: tuple[str, ...] = ()
    at_one_size: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        return not self.differing

    @property
    def differing(self) -> tuple[Case, ...]:
        """The cases in which they differ by more than rounding."""
        return tuple(case for case in self.cases if case.failure or not case.apart <= self.tolerance)

    @property
    def worst(self) -> Case:
        """The case with a failure, or else with the largest difference."""
        return max(self.cases, key=lambda case: (bool(case.failure), case.apart))

    def __bool__(self) -> bool:
        return self.same

    def __str__(self) -> str:
        if self.same:
            return (
                f"the same function: {len(self.cases)} cases in {self.dtype}, at most {self.worst.apart:.2g} "
                f"apart (rounding: {self.tolerance:.2g}){self._left_out()}"
            )
        lines = [f"not the same function: {len(self.differing)} of {len(self.cases)} cases differ"]
        # One way to fail is told once.
        once = {case.failure or index: case for index, case in enumerate(self.differing)}
        for case in sorted(once.values(), key=lambda case: (not case.failure, -case.apart))[:5]:
            size = " ".join("×".join(map(str, size)) for size in case.sizes)
            told = case.failure or (
                f"border {case.border:.2g}, interior {case.interior:.2g} of the channel's largest, "
                f"most at {case.worst}"
            )
            lines.append(f"  {case.name}, {size}: {told}")
        return "\n".join(lines) + self._left_out()

    def _left_out(self) -> str:
        told = {
            "not compared, for the first network fails": ", ".join(dict.fromkeys(self.skipped)),
            "compared at the example's size alone": ", ".join(self.at_one_size),
        }
        return "".join(f"; {what}: {names}" for what, names in told.items() if names)

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON, which has no infinity: differences are None where one output alone is finite."""
        found = {"same": self.same, **asdict(self)}
        for case in found["cases"]:
            for part in ("border", "interior"):
                case[part] = case[part] if math.isfinite(case[part]) else None
        return found


def compared(
    name: str,
    inputs: Sequence[Tensor],
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    in_order: bool = False,
    least: Mapping[str, Tensor] = MappingProxyType({}),
) -> Case:
    """The case of two networks' outputs by name, or ``in_order`` where names mean nothing, for ``inputs``.

    Whole numbers, and whatever is no tensor, must be equal. ``least`` are scales, by output, that
    differences are measured by where the outputs are smaller.
    """
    sizes = [tuple(x.shape) for x in inputs]
    if len(first) != len(second) or not (in_order or set(first) == set(second)):
        return Case(name, sizes, failure=f"{_listed(first)}, and {_listed(second)}")
    border = interior = 0.0
    worst = ""
    for label, a, b in _pairs(first, second):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            if type(a) is not type(b) or a != b:
                return Case(name, sizes, failure=f"{label} is {_told(a)}, and {_told(b)}")
            continue
        if a.dtype != b.dtype and not (a.is_floating_point() and b.is_floating_point()):
            return Case(name, sizes, failure=f"{label} is of {a.dtype}, and of {b.dtype}")
        if torch.strided not in (a.layout, b.layout) or a.layout != b.layout:
            return Case(name, sizes, failure=f"{label} is of {a.layout}, and of {b.layout}")
        if a.shape != b.shape:
            return Case(name, sizes, failure=f"{label} is {tuple(a.shape)}, and {tuple(b.shape)}")
        apart = _apart(a, b, least.get(label))
        inside = _interior(apart)
        here = _largest(apart), _largest(apart[inside]) if inside else 0.0
        if here[0] > max(border, interior) or not worst:
            place = (
                tuple(int(i) for i in torch.unravel_index(apart.argmax(), apart.shape))
                if apart.numel()
                else ()
            )
            worst = f"{label}[{', '.join(map(str, place))}]"
        if inside:
            ring = apart.clone()
            ring[inside] = 0
            border, interior = max(border, _largest(ring)), max(interior, here[1])
        else:
            interior = max(interior, here[0])
    return Case(name, sizes, border, interior, worst)


def check_outputs(outputs: Mapping[str, Any]) -> None:
    """Raise ValueError for the first network's outputs that are no plain numbers."""
    for label, y in outputs.items():
        if isinstance(y, Tensor) and (y.is_quantized or y.layout != torch.strided):
            kind, fix = (y.dtype, "dequantize") if y.is_quantized else (y.layout, "to_dense")
            raise ValueError(f"a: its {label} is of {kind}, which is not compared; let it give .{fix}()")


def fractional(y: Any) -> bool:
    """Whether ``y`` has numbers that are rounded; all others are equal or not."""
    return isinstance(y, Tensor) and (y.is_floating_point() or y.is_complex())


def other_type(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Which output has numbers of another type in the second network; "" if none has."""
    for label, a, b in _pairs(first, second):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype != b.dtype:
            return f"{label} is of {a.dtype}, and of {b.dtype}"
    return ""


def _pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The outputs of both by name, or in their order where the names are others."""
    others = second.values() if set(first) != set(second) else (second[label] for label in first)
    for (label, a), b in zip(first.items(), others, strict=False):
        yield label, a, b


def _listed(outputs: Mapping[str, Any]) -> str:
    return f"{len(outputs)} outputs ({', '.join(outputs)})"


def _apart(a: Tensor, b: Tensor, least: Tensor | None) -> Tensor:
    """Differences relative to ``a``'s channel: infinite where one alone is finite, 1 of whole numbers."""
    if not fractional(a):
        return (a != b).double()
    a, b = wide(a), wide(b)
    finite = a.isfinite() & b.isfinite()
    apart = torch.where(finite, (a - b).abs(), torch.inf)
    apart[(a == b) | (a.isnan() & b.isnan())] = 0
    return apart / scale(a, least) if a.numel() else apart


def wide(a: Tensor) -> Tensor:
    """The same numbers in a type that has all of torch's arithmetic."""
    return a.to(torch.complex128 if a.is_complex() else torch.float64)


def scale(a: Tensor, least: Tensor | None = None) -> Tensor:
    """The largest entry of each channel of (N, C, *space), or of all; and no less than ``least``.

    What is much less than the other channels is their rounding.
    """
    a = wide(a)
    size = torch.where(a.isfinite(), a.abs(), 0)
    largest = size.amax((0, *range(2, a.dim())), keepdim=True) if a.dim() > 2 else size.max()
    if least is not None and least.shape == largest.shape:
        largest = torch.maximum(largest, least)
    largest = largest.clamp(min=QUIET * largest.max().item())
    return torch.where(largest > 0, largest, 1.0)


def _told(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _interior(values: Tensor) -> tuple[slice, ...] | None:
    """All but the outermost entries of (N, C, *space); None where there is no space, or no interior."""
    if values.dim() < 3 or min(values.shape[2:]) < 3:
        return None
    return (slice(None), slice(None), *(slice(1, -1) for _ in values.shape[2:]))


def _largest(values: Tensor) -> float:
    return values.max().item() if values.numel() else 0.0
