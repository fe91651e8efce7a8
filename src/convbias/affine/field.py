"""A bias field as a sum of parts, kept in the smallest exact tying and expanded as late as can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from ..geometry import Site
from ..tying import Axes, NoBias, Rank, Sum, Tap, Tying, Untied
from ..tying.axes import AXIS_NAMES, AxisSet
from ..tying.base import over_places
from ..tying.tap import holds_tied

TIED, TAP = Axes(("c",)), Tap()

Parameters = tuple[Tensor, ...]
OnFilters = Callable[[Tensor], Tensor]


@final
@dataclass(frozen=True, eq=False)
class Field:
    """The bias field ``B = Σ maps + tap field + Σ others``; without parts it is zero.

    ``maps`` are ``(C or 1, out or 1, …)`` and no two of them could be one; a tied bias is ``(C, 1, …)``.
    ``tap`` is ``(C, *kernel)``. ``others`` are tyings that no axis set and no tap is, with their parameters.
    ``summed`` is noted where parts were made of others, which may have cancelled: see ``power``.
    """

    maps: tuple[Tensor, ...] = ()
    tap: Tensor | None = None
    others: tuple[tuple[Tying, Parameters], ...] = ()
    summed: Tensor | None = None

    @property
    def power(self) -> Tensor:
        """For each filter, ``(C,)``, the sum of the squares of the terms that its numbers are sums of.

        Its root is what the numbers' rounding is measured by: they themselves may have cancelled each other.
        """
        if self.summed is not None:
            return self.summed
        parts = [*self.maps, *([] if self.tap is None else [self.tap])]
        for tying, (first, *rest) in self.others:
            parts.append(first)
            if isinstance(tying, Rank):
                parts.append(rest[0].abs() @ rest[1].flatten(1).abs().amax(1))
        return sum((part.reshape(len(part), -1).abs().amax(1).square() for part in parts), torch.zeros(1))

    @classmethod
    def of(cls, tying: Tying, parameters: Parameters, dims: int) -> Field:
        """The field that ``tying`` has with ``parameters``, in ``dims`` spatial axes."""
        if isinstance(tying, NoBias):
            return cls()
        if isinstance(tying, Sum):
            parts = [cls.of(t, (p,), dims) for t, p in zip(tying.terms, parameters, strict=True)]
            return sum(parts, cls())
        if isinstance(tying, Tap):
            return cls(tap=parameters[0])
        if isinstance(tying, AxisSet):
            (bias,) = parameters
            return cls(maps=(bias.reshape(-1, *(1,) * dims) if bias.dim() == 1 else bias,))
        return cls(others=((tying, parameters),))

    def __add__(self, other: Field) -> Field:
        maps = self.maps
        for extra in other.maps:
            maps = _with_map(maps, extra)
        taps = [tap for tap in (self.tap, other.tap) if tap is not None]
        others = self.others
        for tying, parameters in other.others:
            others = _with_other(others, tying, parameters)
        tap = sum(taps[1:], taps[0]) if taps else None
        return Field(maps, tap, others, self.power + other.power)

    def mapped(self, on_filters: OnFilters, channels: int) -> Field:
        """The field after a linear map of its ``channels`` filters: of the first axis of ``(C, …)``.

        A map that all filters share becomes one of rank 1.
        """
        result = Field(tap=None if self.tap is None else on_filters(self.tap))
        parts = [*self.maps, *([] if self.tap is None else [self.tap]), *(p for _, (p, *_) in self.others)]
        if not parts:
            return result
        for shared in self.maps:
            if shared.shape[0] == 1 != channels and 1 not in shared.shape[1:]:
                row = on_filters(shared.new_ones(channels))
                rank = (Rank(1), (torch.zeros_like(row), row[:, None], shared))
                result += Field(others=(rank,))
            else:
                result += Field(maps=(on_filters(shared.expand(channels, *shared.shape[1:])),))
        for tying, (first, *rest) in self.others:
            if isinstance(tying, Rank):
                rest = [on_filters(rest[0]), rest[1]]
            result += Field(others=((tying, (on_filters(first), *rest)),))
        # A column for each filter: how much of it is in each of the new ones.
        each = on_filters(self.power.sqrt().to(parts[0]).expand(channels).diag())
        return replace(result, summed=each.square().sum(1))

    def at(self, site: Site) -> Tensor:
        """``B``, shape ``(C, *out)``."""
        parts = [*self.maps]
        if self.tap is not None:
            parts.append(TAP.field([self.tap], site))
        parts += [tying.field(parameters, site) for tying, parameters in self.others]
        total = torch.zeros((), dtype=parts[0].dtype) if parts else torch.zeros(())
        for part in parts:
            total = total + part
        return total.expand(site.field_shape)

    def smallest(self, site: Site) -> tuple[Tying, Parameters]:
        """A tying that has this field exactly, and its parameters: tied if it can be, then tap, then a map.

        ``site`` needs sizes only where parts of different kinds have to be written out as a map.
        """
        simple = self._simplified(site)
        tied = [m.flatten() for m in simple.maps if _is_tied(m, site)]
        varied = [m for m in simple.maps if not _is_tied(m, site)]
        if simple.tap is None and not simple.others:
            return _axis_sets(simple.maps, site)
        if simple.tap is None and len(simple.others) == 1 and not varied:
            tying, parameters = simple.others[0]
            return tying, _plus_tied(tying, parameters, tied, site)
        if simple.tap is not None and not simple.others and not varied:
            return _tap_and_tied(simple.tap, tied, site)
        return Untied(), (self.at(site).contiguous(),)

    def _simplified(self, site: Site) -> Field:
        """Without what is zero, and maps and taps that are constant as what they are."""
        maps = [m for m in map(narrowed, self.maps) if m.any()]
        tap = self.tap if self.tap is not None and self.tap.any() else None
        if tap is not None and site.geometry is not None and site.geometry.covers:
            maps.append(over_places(tap.flatten(1).sum(1), site))
            tap = None
        simple = Field(tap=tap, others=self.others)
        for one in maps:
            simple += Field(maps=(one,))
        return simple


def _with_map(maps: tuple[Tensor, ...], extra: Tensor) -> tuple[Tensor, ...]:
    """``maps`` and ``extra``: added to one that has all its axes, or taking in those that have none more."""
    for i, one in enumerate(maps):
        both = one + extra
        if both.shape in (one.shape, extra.shape):
            return _with_map(maps[:i] + maps[i + 1 :], both)
    return (*maps, extra)


def _with_other(
    others: tuple[tuple[Tying, Parameters], ...], tying: Tying, parameters: Parameters
) -> tuple[tuple[Tying, Parameters], ...]:
    for i, (known, theirs) in enumerate(others):
        rest = others[:i] + others[i + 1 :]
        if isinstance(known, Rank) and isinstance(tying, Rank):
            (b1, u1, v1), (b2, u2, v2) = theirs, parameters
            both = (b1 + b2, torch.cat([u1, u2], 1), torch.cat([v1, v2]))
            return (*rest, (Rank(known.rank + tying.rank), both))
        if known == tying:
            return (*rest, (tying, tuple(a + b for a, b in zip(theirs, parameters, strict=True))))
    return (*others, (tying, parameters))


def _plus_tied(tying: Tying, parameters: Parameters, tied: list[Tensor], site: Site) -> Parameters:
    """The parameters of the same tying with tied biases added, which each of them can hold."""
    for bias in tied:
        level = [bias] if isinstance(tying, Rank) else tying.lift(bias, site)
        parameters = (parameters[0] + level[0], *parameters[1:])
    return parameters


def narrowed(one: Tensor) -> Tensor:
    """The map with ones for the axes along which it does not change."""
    for axis in range(1, one.dim()):
        first = one.narrow(axis, 0, 1)
        if bool((one == first).all()):
            one = first
    return one


def _is_tied(one: Tensor, site: Site) -> bool:
    return one.shape[0] == site.channels == one.numel()


def _axis_sets(maps: tuple[Tensor, ...], site: Site) -> tuple[Tying, Parameters]:
    ordered = sorted(maps, key=lambda one: [size == 1 for size in one.shape])
    sets = [_as_axis_set(one, site.channels) for one in ordered]
    if len(sets) > 1:
        return Sum(tuple(axes for axes, _ in sets)), tuple(bias for _, bias in sets)
    return (sets[0][0], (sets[0][1],)) if sets else (NoBias(), ())


def _as_axis_set(one: Tensor, channels: int) -> tuple[AxisSet, Tensor]:
    names = AXIS_NAMES[one.dim() - 1]
    owns = [channels == one.shape[0], *(size > 1 for size in one.shape[1:])]
    if all(owns):
        return Untied(), one
    kept = tuple(name for name, own in zip(names, owns, strict=True) if own)
    return Axes(kept), (one.flatten() if kept == ("c",) else one)


def _tap_and_tied(tap: Tensor, tied: list[Tensor], site: Site) -> tuple[Tying, Parameters]:
    if not tied:
        return TAP, (tap,)
    if site.geometry is not None and holds_tied(site.geometry):
        return TAP, (tap + TAP.lift(tied[0], site)[0],)
    return Sum((TIED, TAP)), (tied[0], tap)
