"""Axes of any size, and what is declared of them in the words of torch.export."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, final

from torch import Tensor
from torch.export import Dim

from ..errors import ShapeError


@final
@dataclass(frozen=True)
class Axis:
    """An axis of the size ``times`` · n + ``plus``, n from ``least`` to ``most``: one n for each ``root``."""

    root: object
    times: int = 1
    plus: int = 0
    least: float = 1
    most: float = math.inf


# For each input its axes that may have any size.
Axes = list[Mapping[int, Axis]]

FORM = "a sequence of dicts such as {2: Dim('h')}, one for each input"


def dynamic_axes(dynamic_shapes: Any, examples: Sequence[Tensor]) -> Axes | None:
    """The axes of each input that may have any size, from the words of ``torch.export.export``.

    Raises ShapeError for anything else, for another number of entries than of inputs, and for an axis that
    an input lacks.
    """
    if dynamic_shapes is None:
        return None
    if not isinstance(dynamic_shapes, (Mapping, list, tuple)):
        raise ShapeError("dynamic_shapes", dynamic_shapes, f"must be {FORM}")
    given = each_input(dynamic_shapes)
    if len(given) != len(examples):
        rule = f"needs one entry for each of the {len(examples)} inputs"
        raise ShapeError("dynamic_shapes", dynamic_shapes, rule)
    found: Axes = []
    for i, (axes, x) in enumerate(zip(given, examples, strict=True)):
        if not isinstance(axes, (Mapping, list, tuple, NoneType)):
            raise ShapeError("dynamic_shapes", dynamic_shapes, f"its entry {axes!r} must be one of {FORM}")
        moving: Mapping[Any, Any] = axes if isinstance(axes, Mapping) else dict(enumerate(axes or ()))
        for axis, size in moving.items():
            if not isinstance(axis, int) or not -x.dim() <= axis < x.dim():
                rule = f"axis {axis!r} is none of an input {tuple(x.shape)}"
                raise ShapeError("dynamic_shapes", dynamic_shapes, rule)
            if not isinstance(size, (str, int, Dim, type(Dim.AUTO), NoneType)):
                rule = f"the size {size!r} must be a Dim, a name, or None for one that is fixed"
                raise ShapeError("dynamic_shapes", dynamic_shapes, rule)
        found.append(
            {
                axis % x.dim(): _axis(size, (i, axis))
                for axis, size in moving.items()
                if not (size is None or isinstance(size, int) or size == Dim.STATIC)
            }
        )
    return found


def each_input(dynamic_shapes: Any) -> list[Any]:
    """An entry for each input. To torch.export, ``*inputs`` are one argument, with one entry for all."""
    given: list[Any] = [*(dynamic_shapes.values() if isinstance(dynamic_shapes, Mapping) else dynamic_shapes)]
    last: Any = given[-1] if given else None
    if isinstance(last, (tuple, list)) and any(isinstance(one, (Mapping, tuple, list)) for one in last):
        return [*given[:-1], *last]
    return given


def declared(sizes: Sequence[tuple[int, ...]], axes: Axes) -> bool:
    """Whether ``sizes`` are such as ``axes`` declare."""
    values: dict[object, int] = {}
    for size, moving in zip(sizes, axes, strict=True):
        for place, axis in moving.items():
            value, rest = divmod(size[place] - axis.plus, axis.times)
            if rest or not axis.least <= value <= axis.most or values.setdefault(axis.root, value) != value:
                return False
    return True


def at_one_size(own: Sequence[tuple[int, ...]], axes: Axes, tried: Sequence[Any]) -> tuple[str, ...]:
    """The axes that are of the same size in all sizes ``tried`` as in the example's ``own``."""
    return tuple(
        f"axis {axis} of input {i}"
        for i, moving in enumerate(axes)
        for axis in sorted(moving)
        if all(sizes[i][axis] == own[i][axis] for sizes in tried)
    )


def _axis(size: Any, place: tuple[int, int]) -> Axis:
    """What is said of one axis: a Dim, one derived from another, a name, or nothing."""
    if isinstance(size, str):
        return Axis(size)
    # To torch.export, two of one name are one.
    root: Any = getattr(size, "root", size)
    name: object = getattr(root, "__name__", place)
    least, most = getattr(root, "min", None), getattr(root, "max", None)
    derived: Any = getattr(size, "fn", lambda n: n)  # linear, which is all that torch.export has
    plus = int(derived(0))
    return Axis(
        name,
        int(derived(1)) - plus,
        plus,
        0 if least is None else least,
        math.inf if most is None else float(most),
    )
