"""From a spelling to a tying: ``parse``, the inverse of ``repr``."""

from __future__ import annotations

from ..errors import TyingError
from .axes import AXIS_NAMES, Axes, AxisSet, NoBias, Sum, Untied
from .base import Tying
from .grid import Grid
from .labels import Symmetric
from .lowrank import Rank
from .tap import Tap

EXAMPLES = "none, tied, untied, tap, rank:4, grid:8x8, sym:d4, axes such as 'c h', or a sum such as 'c + h w'"


def parse(spec: bool | str | Tying) -> Tying:
    """The tying that ``spec`` spells; a Tying is returned as it is, True is tied, False is none.

    Raises TyingError, which says which part cannot be read and what would be right.

    >>> parse("c  h+c w")
    c h + c w
    >>> parse(True) == parse("c") == parse("tied")
    True
    """
    if isinstance(spec, Tying):
        return spec
    if isinstance(spec, bool):
        return Axes(("c",)) if spec else NoBias()
    if not isinstance(spec, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TyingError(spec, spec, "must be a bool, a string or a Tying")
    if spec.strip().startswith("Regions"):
        raise TyingError(spec, "Regions", "labels have no spelling; pass the Regions(labels) object")
    if "+" in spec:
        return Sum(tuple(_term(part, spec) for part in spec.split("+")))
    text = spec.strip()
    return NoBias() if text == "none" else _single(text, spec)


def _single(text: str, spec: str) -> Tying:
    head, colon, value = text.partition(":")
    if not colon:
        return Tap() if text == "tap" else _axis_set(text, spec)
    if head == "rank":
        return Rank(_number(value, spec, "rank:4"))
    if head == "grid":
        return Grid(tuple(_number(part, spec, "grid:8x8") for part in value.split("x")))
    if head == "sym":
        return Symmetric(value)
    raise TyingError(spec, head, f"unknown; a tying is one of {EXAMPLES}")


def _term(text: str, spec: str) -> AxisSet | Tap:
    term = text.strip()
    if not term:
        raise TyingError(spec, text, "a term of the sum is missing; write for example 'c + h w'")
    if term == "tap":
        return Tap()
    if ":" in term or term == "none":
        raise TyingError(spec, term, "a sum is made of axis sets, or is 'c + tap'")
    return _axis_set(term, spec)


def _axis_set(text: str, spec: str) -> AxisSet:
    if text == "untied":
        return Untied()
    names = ("c",) if text == "tied" else tuple(text.split())
    known = {name for axes in AXIS_NAMES.values() for name in axes}
    for name in names:
        if name not in known:
            raise TyingError(spec, name, f"unknown; a tying is one of {EXAMPLES}")
    for axes in AXIS_NAMES.values():
        if set(names) <= set(axes):
            ordered = tuple(name for name in axes if name in names)
            if names != ordered:
                rule = f"axes go in the order {' '.join(axes)!r}, each once; write {' '.join(ordered)!r}"
                raise TyingError(spec, text, rule)
            return Axes(names)
    raise TyingError(spec, text, "no bias has these axes together; 1D has 'c l', 2D 'c h w', 3D 'c d h w'")


def _number(text: str, spec: str, example: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise TyingError(spec, text, f"must be a positive integer, as in {example!r}")
    return int(text)
