"""Tyings by label: places with the same label share a bias. Given regions, or a symmetry's orbits."""

# Much of torch, linalg above all, is untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from torch import Tensor

from ..errors import ShapeError, TyingError
from ..geometry import Site
from .axes import AXIS_NAMES
from .base import Parameters, Tying, interpolate, wide


class Labelled(Tying):
    """``B[c, o] = θ[c, label(o)]``; the parameter is ``(C, labels)``, labels are no state."""

    @property
    def size_bound(self) -> bool:
        return True

    @abstractmethod
    def labels_at(self, site: Site) -> Tensor:
        """The label of each place, an integer tensor of shape ``out``."""

    @abstractmethod
    def label_count(self, site: Site) -> int:
        """How many labels there are."""

    def shapes(self, site: Site) -> dict[str, tuple[int, ...]]:
        return {"bias": (site.channels, self.label_count(site))}

    def field(self, parameters: Parameters, site: Site) -> Tensor:
        (bias,) = parameters
        return gather(bias, self.labels_at(site))

    def project(self, field: Tensor, site: Site) -> list[Tensor]:
        labels = self.labels_at(site).flatten().to(field.device)
        full = wide(field).flatten(1)
        sums = full.new_zeros(self.shapes(site)["bias"]).index_add_(1, labels, full)
        return [(sums / labels.bincount(minlength=sums.shape[1])).to(field.dtype)]

    def lift(self, tied: Tensor, site: Site) -> list[Tensor]:
        return [tied[:, None].expand(self.shapes(site)["bias"]).clone()]


def gather(bias: Tensor, labels: Tensor) -> Tensor:
    """``θ[:, labels]``: the field of a tying by label."""
    flat = labels.to(bias.device).flatten()
    return bias.index_select(1, flat).unflatten(1, labels.shape)


@final
class Regions(Labelled):
    """One bias per filter and labelled region: land and sea, a board's corner, edge and middle.

    ``labels`` has the output's shape and holds every number from 0 up to the last, or booleans. Equality
    and hash are by content.

    Raises TyingError for labels that leave a place or a number out.

    >>> Regions([[0, 0, 1], [0, 1, 1]])
    Regions(shape=(2, 3), labels=2, digest='6c65d0a1')
    """

    def __init__(self, labels: object) -> None:
        given = torch.as_tensor(labels, device="cpu").detach()
        if given.is_floating_point() or given.is_complex():
            raise TyingError("Regions", given.dtype, "labels must be integers or booleans; convert them")
        self.labels = given.to(torch.int64, copy=True)
        if self.labels.dim() not in AXIS_NAMES or self.labels.numel() == 0:
            raise TyingError(
                "Regions", tuple(self.labels.shape), "labels need one to three axes, the output's shape"
            )
        missed = (self.labels < 0).nonzero()
        if len(missed):
            place = tuple(missed[0].tolist())
            raise TyingError(
                "Regions",
                f"labels{list(place)} = {int(self.labels[place])}",
                f"every place needs a label of 0 or more; {len(missed)} have none. "
                "Give them a region of their own",
            )
        unused = (self.labels.flatten().bincount() == 0).nonzero().flatten().tolist()
        if unused:
            raise TyingError(
                "Regions",
                f"label {unused[0]}",
                "no place has it, so its bias could never learn; number the labels without gaps, as "
                "torch.unique(labels, return_inverse=True)[1] does",
            )
        content = repr(tuple(self.labels.shape)).encode() + self.labels.numpy().tobytes()
        self._count = int(self.labels.max()) + 1
        self._digest = hashlib.sha256(content).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regions) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        shape = tuple(self.labels.shape)
        return f"Regions(shape={shape}, labels={self._count}, digest={self._digest[:8]!r})"

    def label_count(self, site: Site) -> int:
        self.labels_at(site)
        return self._count

    def labels_at(self, site: Site) -> Tensor:
        if site.output_size is not None and site.output_size != tuple(self.labels.shape):
            raise ShapeError(
                "labels",
                tuple(self.labels.shape),
                f"must have the output's shape {site.output_size}: one label for every place",
            )
        return self.labels

    def resize(self, parameters: Parameters, site: Site, output_size: tuple[int, ...]) -> list[Tensor]:
        if output_size != site.output_size:
            raise TyingError(
                repr(self), output_size, "labels cannot be interpolated; make a layer with Regions of "
                "that size and load this bias into it"
            )  # fmt: skip
        return list(parameters)


@final
@dataclass(frozen=True, repr=False)
class Symmetric(Labelled):
    """The same under a group of symmetries: ``d4``, the square's, or a mirror, ``flip_w``.

    Source: Maddison et al. 2015, Move Evaluation in Go Using Deep Convolutional Neural Networks.
    """

    group: str

    def __post_init__(self) -> None:
        known = ["d4", *(f"flip_{name}" for name in "ldhw")]
        if self.group not in known:
            raise TyingError(repr(self), self.group, f"must be one of {', '.join(known)}")

    def __repr__(self) -> str:
        return f"sym:{self.group}"

    def labels_at(self, site: Site) -> Tensor:
        return _orbits(self.group, site.sized())

    def label_count(self, site: Site) -> int:
        return _orbit_count(self.group, site.sized())

    def resize(self, parameters: Parameters, site: Site, output_size: tuple[int, ...]) -> list[Tensor]:
        there = Site(site.channels, site.dims, output_size=output_size)
        return self.project(interpolate(self.expand(parameters, site), output_size), there)


F = TypeVar("F", bound=Callable[..., object])


def _of_size_alone(function: F) -> F:
    """What ``torch.compiler.assume_constant_result`` does, which imports the compiler: a second or more."""
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


# Orbits depend on the size alone, so that torch.compile may take them for constants.
@_of_size_alone
def _orbits(group: str, size: tuple[int, ...]) -> Tensor:
    """The number of the orbit of each place under ``group``."""
    orbit, before = torch.arange(math.prod(size), device="cpu").reshape(size), None
    while before is None or not torch.equal(orbit, before):
        before = orbit
        for image in _images(group, orbit):
            orbit = torch.minimum(orbit, image)
    return torch.unique(orbit, return_inverse=True)[1]


@_of_size_alone
def _orbit_count(group: str, size: tuple[int, ...]) -> int:
    return int(_orbits(group, size).max()) + 1


def _images(group: str, orbit: Tensor) -> list[Tensor]:
    """``orbit`` under each generator of the group."""
    spelling, names = f"sym:{group}", AXIS_NAMES[orbit.dim()][1:]
    if group == "d4":
        if orbit.dim() == 1 or orbit.shape[-1] != orbit.shape[-2]:
            raise TyingError(spelling, tuple(orbit.shape), "the square's symmetries need h equal to w")
        return [orbit.flip(-1), orbit.mT]
    axis = group.removeprefix("flip_")
    if axis not in names:
        raise TyingError(spelling, axis, f"a {orbit.dim()}D bias has the axes {' '.join(names)!r}")
    return [orbit.flip(names.index(axis))]
