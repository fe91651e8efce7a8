"""The grid tying."""

# Much of torch, linalg above all, is untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..errors import TyingError
from ..geometry import Site
from .base import Parameters, Tying, interpolation, over_places, per_axis_product, wide


@final
@dataclass(frozen=True, repr=False)
class Grid(Tying):
    """Control points, interpolated to any output size: linear per axis, corners aligned.

    ``points`` holds a number per axis, or one number for every axis.
    """

    points: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.points or min(self.points) < 1:
            raise TyingError(repr(self), self.points, "a grid needs at least 1 point on every axis")

    def __repr__(self) -> str:
        return "grid:" + "x".join(map(str, self.points))

    def shapes(self, site: Site) -> dict[str, tuple[int, ...]]:
        if len(self.points) not in (1, site.dims):
            raise TyingError(
                repr(self), repr(self), f"this bias has {site.dims} spatial axes: give 1 or {site.dims} "
                f"numbers, such as 'grid:{'x'.join(['8'] * site.dims)}'"
            )  # fmt: skip
        points = self.points * site.dims if len(self.points) == 1 else self.points
        return {"bias": (site.channels, *points)}

    def field(self, parameters: Parameters, site: Site) -> Tensor:
        (bias,) = parameters
        return per_axis_product(bias, self._matrices(bias, site))

    def project(self, field: Tensor, site: Site) -> list[Tensor]:
        full = wide(field)
        inverses = [torch.linalg.pinv(matrix) for matrix in self._matrices(full, site)]
        return [per_axis_product(full, inverses).to(field.dtype)]

    def lift(self, tied: Tensor, site: Site) -> list[Tensor]:
        return [over_places(tied, site).expand(self.shapes(site)["bias"]).clone()]

    def _matrices(self, like: Tensor, site: Site) -> list[Tensor]:
        _, *points = self.shapes(site)["bias"]
        return [interpolation(n, g, like) for n, g in zip(site.sized(), points, strict=True)]
