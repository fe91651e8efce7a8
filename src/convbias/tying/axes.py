"""Axis sets, which own a bias per entry of some axes and share it along the others, and their sums."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from itertools import product
from typing import final

import torch
from torch import Tensor

from ..errors import TyingError
from ..geometry import Site
from .base import Parameters, Summand, Tying, interpolate, over_places, wide
from .tap import Tap, project_tied_and_tap

AXIS_NAMES = {1: ("c", "l"), 2: ("c", "h", "w"), 3: ("c", "d", "h", "w")}


@final
@dataclass(frozen=True, repr=False)
class NoBias(Tying):
    """No bias: the map goes through the origin."""

    def __repr__(self) -> str:
        return "none"

    def shapes(self, site: Site) -> dict[str, tuple[int, ...]]:
        return {}

    def field(self, parameters: Parameters, site: Site) -> Tensor:
        return torch.zeros((1,) * (1 + site.dims), device="cpu")

    def project(self, field: Tensor, site: Site) -> list[Tensor]:
        return []


class AxisSet(Tying):
    """One parameter per entry of the kept axes: shape (C or 1, out or 1, …); only ``(C,)`` for tied."""

    @abstractmethod
    def kept(self, site: Site) -> tuple[bool, ...]:
        """For the filters' axis and each spatial axis: does it own a bias?"""

    def shapes(self, site: Site) -> dict[str, tuple[int, ...]]:
        kept = self.kept(site)
        if kept[0] and not any(kept[1:]):
            return {"bias": (site.channels,)}
        full = site.field_shape if any(kept[1:]) else (site.channels, *(1,) * site.dims)
        return {"bias": tuple(n if keep else 1 for n, keep in zip(full, kept, strict=True))}

    def field(self, parameters: Parameters, site: Site) -> Tensor:
        (bias,) = parameters
        return over_places(bias, site) if bias.dim() == 1 else bias

    def project(self, field: Tensor, site: Site) -> list[Tensor]:
        shared = [axis for axis, keep in enumerate(self.kept(site)) if not keep]
        mean = wide(field).mean(dim=shared, keepdim=True).to(field.dtype) if shared else field
        return [mean.reshape(self.shapes(site)["bias"]).clone()]

    def lift(self, tied: Tensor, site: Site) -> list[Tensor]:
        shape, owns_filters = self.shapes(site)["bias"], self.kept(site)[0]
        level = tied if owns_filters else wide(tied).mean(0, keepdim=True).to(tied.dtype)
        return [level.clone() if len(shape) == 1 else over_places(level, site).expand(shape).clone()]

    def resize(self, parameters: Parameters, site: Site, output_size: tuple[int, ...]) -> list[Tensor]:
        (bias,) = parameters
        return [bias if bias.dim() == 1 else interpolate(bias, output_size)]


@final
@dataclass(frozen=True, repr=False)
class Axes(AxisSet):
    """The named axes own a bias: ``"c"`` is tied, ``""`` one shared number, ``"c h"`` one per row."""

    names: tuple[str, ...]

    def __repr__(self) -> str:
        return "tied" if self.names == ("c",) else " ".join(self.names)

    @property
    def size_bound(self) -> bool:
        return any(name != "c" for name in self.names)

    def kept(self, site: Site) -> tuple[bool, ...]:
        known = AXIS_NAMES[site.dims]
        for name in self.names:
            if name not in known:
                raise TyingError(repr(self), name, f"a {site.dims}D bias has the axes {' '.join(known)!r}")
        return tuple(name in self.names for name in known)


@final
@dataclass(frozen=True, repr=False)
class Untied(AxisSet):
    """Every axis owns a bias: one per filter and output location."""

    def __repr__(self) -> str:
        return "untied"

    @property
    def size_bound(self) -> bool:
        return True

    def kept(self, site: Site) -> tuple[bool, ...]:
        return (True,) * (1 + site.dims)


@final
@dataclass(frozen=True, repr=False)
class Sum(Tying):
    """The sum of axis sets, or of tied and tap: each term has its own parameters."""

    terms: tuple[AxisSet | Tap, ...]

    def __post_init__(self) -> None:
        names = [repr(term) for term in self.terms]
        if len(set(names)) < max(len(names), 2):
            raise TyingError(repr(self), repr(self), "a sum needs two terms or more, each of them once")
        if "" in names:
            raise TyingError(repr(self), "", "one shared number adds nothing to a sum; leave it out")
        if "tap" in names and set(names) != {"tied", "tap"}:
            raise TyingError(repr(self), "tap", "tap can be added to 'c' only, as 'c + tap'")

    def __repr__(self) -> str:
        return " + ".join("c" if repr(term) == "tied" else repr(term) for term in self.terms)

    @property
    def size_bound(self) -> bool:
        return any(term.size_bound for term in self.terms)

    def shapes(self, site: Site) -> dict[str, tuple[int, ...]]:
        return {f"bias_{i}" if i else "bias": term.shapes(site)["bias"] for i, term in enumerate(self.terms)}

    def field(self, parameters: Parameters, site: Site) -> Tensor:
        fields = [term.field([bias], site) for term, bias in zip(self.terms, parameters, strict=True)]
        total = fields[0]
        for field in fields[1:]:
            total = total + field
        return total

    def summands(self, parameters: Parameters, site: Site) -> list[Summand]:
        terms = zip(self.terms, parameters, strict=True)
        return [part for term, bias in terms for part in term.summands([bias], site)]

    def project(self, field: Tensor, site: Site) -> list[Tensor]:
        if any(isinstance(term, Tap) for term in self.terms):
            both = project_tied_and_tap(field, site)
            return [both["tap" if isinstance(term, Tap) else "tied"] for term in self.terms]
        return self._project_axis_sets(field, site)

    def _project_axis_sets(self, field: Tensor, site: Site) -> list[Tensor]:
        """Least squares by the analysis of variance.

        The field falls into orthogonal parts, one for each set of axes along which it varies. A part goes to
        the terms that keep all those axes, in proportion to how many entries a parameter of theirs
        feeds: that makes the parameters smallest. A part that no term can hold is dropped.
        """
        full = wide(field)
        shapes = list(self.shapes(site).values())
        keeps = [term.kept(site) for term in self.terms if isinstance(term, AxisSet)]
        feeds = [full.numel() / math.prod(shape) for shape in shapes]
        shares = [full.new_zeros(()) for _ in shapes]
        for varies in product((False, True), repeat=full.dim()):
            holders = [
                i
                for i, kept in enumerate(keeps)
                if all(keep or not along for keep, along in zip(kept, varies, strict=True))
            ]
            part = _part(full, varies)
            for i in holders:
                shares[i] = shares[i] + part * (feeds[i] / sum(feeds[j] for j in holders))
        return [s.reshape(shape).to(field.dtype) for s, shape in zip(shares, shapes, strict=True)]

    def lift(self, tied: Tensor, site: Site) -> list[Tensor]:
        """The first term that owns the filters' axis takes it all; without one, the projection."""
        for i, term in enumerate(self.terms):
            if isinstance(term, AxisSet) and term.kept(site)[0]:
                zeros = [tied.new_zeros(shape) for shape in self.shapes(site).values()]
                return [*zeros[:i], *term.lift(tied, site), *zeros[i + 1 :]]
        return super().lift(tied, site)

    def resize(self, parameters: Parameters, site: Site, output_size: tuple[int, ...]) -> list[Tensor]:
        return [
            resized
            for term, bias in zip(self.terms, parameters, strict=True)
            for resized in term.resize([bias], site, output_size)
        ]


def _part(field: Tensor, varies: tuple[bool, ...]) -> Tensor:
    """What of ``field`` varies along exactly these axes: its interaction in the analysis of variance."""
    for axis, along in enumerate(varies):
        mean = field.mean(dim=axis, keepdim=True)
        field = field - mean if along else mean
    return field
