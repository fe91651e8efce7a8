"""The low-rank tying."""

# Much of torch, linalg above all, is untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..errors import TyingError
from ..geometry import Site
from .base import Parameters, Tying, interpolate, over_places, wide

START = 0.1  # the spread of bias_u where a direction is still unused: bias_v learns through it


@final
@dataclass(frozen=True, repr=False)
class Rank(Tying):
    """``B[c, o] = b[c] + Σ_r u[c, r] v[r, o]``: a level per filter and ``rank`` shared patterns.

    The one tying that is not linear in its parameters.
    """

    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise TyingError(repr(self), str(self.rank), "the rank must be at least 1; for 0 write 'tied'")

    def __repr__(self) -> str:
        return f"rank:{self.rank}"

    @property
    def size_bound(self) -> bool:
        return True

    def shapes(self, site: Site) -> dict[str, tuple[int, ...]]:
        return {
            "bias": (site.channels,),
            "bias_u": (site.channels, self.rank),
            "bias_v": (self.rank, *site.sized()),
        }

    def field(self, parameters: Parameters, site: Site) -> Tensor:
        bias, u, v = parameters
        return over_places(bias, site) + (u @ v.flatten(1)).unflatten(1, v.shape[1:])

    def project(self, field: Tensor, site: Site) -> list[Tensor]:
        """Without each filter's mean, the truncated singular value decomposition.

        A direction that ``field`` has no use for gets ``v = 0`` and a small ``u``, so that it can learn.
        """
        flat = wide(field).flatten(1)
        mean = flat.mean(dim=1)
        left, s, right = torch.linalg.svd(flat - mean[:, None], full_matrices=False)
        used = min(self.rank, int((s > 1e-12 * max(float(s.max()), 1e-300)).sum()))
        u, v = flat.new_zeros(len(flat), self.rank), flat.new_zeros(self.rank, flat.shape[1])
        u[:, :used] = left[:, :used] * s[:used].sqrt()
        v[:used] = s[:used].sqrt()[:, None] * right[:used]
        u[:, used:] = _starts(u[:, used:])
        return [t.to(field.dtype) for t in (mean, u, v.unflatten(1, field.shape[1:]))]

    def lift(self, tied: Tensor, site: Site) -> list[Tensor]:
        shapes = self.shapes(site)
        u = _starts(tied.new_empty(shapes["bias_u"]))
        return [tied.clone(), u, tied.new_zeros(shapes["bias_v"])]

    def resize(self, parameters: Parameters, site: Site, output_size: tuple[int, ...]) -> list[Tensor]:
        bias, u, v = parameters
        return [bias, u, interpolate(v, output_size)]


def _starts(like: Tensor) -> Tensor:
    """Small random numbers, from a generator of their own so that torch's stays where it was."""
    generator = torch.Generator("cpu").manual_seed(torch.initial_seed())
    drawn = torch.randn(like.shape, generator=generator, device="cpu", dtype=torch.float64)
    return (drawn * START / math.sqrt(max(like.shape[1], 1))).to(like)
