"""The tap tying: a bias added to each entry before the sum."""

# Much of torch, linalg above all, is untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import final

import torch
from torch import Tensor

from ..errors import ShapeError, TyingError
from ..geometry import Geometry, Site
from .base import Parameters, Summand, Tying, over_places, per_axis_product, wide


@final
@dataclass(frozen=True, repr=False)
class Tap(Tying):
    """One bias per filter and kernel entry, added to each product before the sum.

    ``B[c, o] = Σ τ[c, t]`` over the taps valid at ``o``. Away from a zero-padded border that is one number
    per filter (in a transposed convolution one per filter and stride phase); at the border fewer
    entries exist and the field bends. It follows the image to any size.
    """

    def __repr__(self) -> str:
        return "tap"

    def shapes(self, site: Site) -> dict[str, tuple[int, ...]]:
        return {"bias": (site.channels, *_geometry(site).kernel_size)}

    def field(self, parameters: Parameters, site: Site) -> Tensor:
        (taps,) = parameters
        geometry = _geometry(site)
        if geometry.covers:
            return over_places(taps.flatten(1).sum(1), site)
        # Adding to each entry is what a convolution does to a plane of ones.
        ones = taps.new_ones((1, 1, *_input_size(site)))
        return geometry.convolve(ones, taps.unsqueeze(0 if geometry.transposed else 1))[0]

    def summands(self, parameters: Parameters, site: Site) -> list[Summand]:
        """By classes of windows, which have the same taps valid: nine in an image under a 3×3 kernel."""
        (taps,) = parameters
        if _geometry(site).covers:
            return super().summands(parameters, site)
        kinds = _geometry(site).kinds(_input_size(site))
        valid = [mask.to(taps) for mask, _ in kinds]
        return [Summand(per_axis_product(taps, valid), tuple(index for _, index in kinds))]

    def project(self, field: Tensor, site: Site) -> list[Tensor]:
        masks = _masks(field, site)
        inverses = [torch.linalg.pinv(mask) for mask in masks]
        return [per_axis_product(wide(field), inverses).to(field.dtype)]

    def lift(self, tied: Tensor, site: Site) -> list[Tensor]:
        shares = [axis_shares(_geometry(site), axis)[0] for axis in range(site.dims)]
        return [over_places(tied, site) * reduce(torch.multiply, _outer(shares)).to(tied)]


def holds_tied(geometry: Geometry) -> bool:
    """Whether a tap bias can be a tied one at ``geometry``, whatever the size of the image.

    >>> holds_tied(Geometry.of(1, kernel_size=3, padding=1))
    True
    >>> holds_tied(Geometry.of(1, kernel_size=2, padding=1))
    False
    """
    return all(axis_shares(geometry, axis)[1] for axis in range(geometry.dims))


def axis_shares(geometry: Geometry, axis: int) -> tuple[Tensor, bool]:
    """How one number is spread over an axis' taps so that their sum is that number everywhere.

    Equal shares on the taps valid at every output; without such taps the smallest solution of the
    masks' system; without a solution equal shares within each stride phase, right away from the
    border. Returns the shares ``(k,)`` and whether they are right everywhere.
    """
    k, d = geometry.kernel_size[axis], geometry.dilation[axis]
    reach = torch.arange(k, device="cpu") * d
    if geometry.covers:
        return torch.ones_like(reach, dtype=torch.float64) / k, True
    if not geometry.transposed:
        before, after = geometry.pads[axis]
        always = ((reach >= before) & (reach <= d * (k - 1) - after)).double()
        if always.any():
            return always / always.sum(), True
    rows = _window_kinds(geometry, axis)
    solution = torch.linalg.pinv(rows) @ rows.new_ones(len(rows))
    if torch.allclose(rows @ solution, rows.new_ones(len(rows)), rtol=0, atol=1e-12):
        return solution, True
    phase = reach % geometry.stride[axis] if geometry.transposed else torch.zeros_like(reach)
    return 1 / (phase[:, None] == phase[None, :]).double().sum(1), False


def project_tied_and_tap(field: Tensor, site: Site) -> dict[str, Tensor]:
    """The smallest tied and tap parameters whose summed field is nearest to ``field``.

    With the masks' singular vectors as a basis, and one more for what of the constant field lies
    outside their span, the joint system is as small as the kernel.
    """
    full = wide(field)
    parts = [_thin_svd(mask) for mask in _masks(field, site)]
    sizes = [len(s) for _, s, _ in parts]
    inside = per_axis_product(torch.ones_like(full[:1]), [u.mT for u, _, _ in parts])
    outside = torch.ones_like(full[:1]) - per_axis_product(inside, [u for u, _, _ in parts])
    length = outside.norm()
    scale = reduce(torch.multiply, _outer([s for _, s, _ in parts])).reshape(-1)
    system = torch.block_diag(scale.diag(), full.new_zeros((1, 1)))
    system[:-1, -1], system[-1, -1] = inside.reshape(-1), length
    coordinates = per_axis_product(full, [u.mT for u, _, _ in parts]).flatten(1)
    beyond = (full * outside).flatten(1).sum(1, keepdim=True) / length.clamp(min=1e-300)
    target = torch.cat([coordinates, beyond], dim=1)
    solved = target @ torch.linalg.pinv(system, rtol=1e-12).mT
    taps = per_axis_product(solved[:, :-1].unflatten(1, sizes), [v for _, _, v in parts])
    return {"tied": solved[:, -1].to(field.dtype), "tap": taps.to(field.dtype)}


def _geometry(site: Site) -> Geometry:
    if site.geometry is None:
        raise TyingError("tap", "tap", "a tap bias belongs to a convolution's kernel; use 'untied' here")
    return site.geometry


def _input_size(site: Site) -> tuple[int, ...]:
    """The input's size, from the output's where that leaves no choice of a field."""
    if site.input_size is not None:
        return site.input_size
    geometry = _geometry(site)
    sizes = geometry.input_sizes(site.sized())
    if not all(sizes):
        raise ShapeError("output_size", site.output_size, "no input gives it at this geometry")
    least = tuple(axis_sizes[0] for axis_sizes in sizes)
    for axis, axis_sizes in enumerate(sizes):
        masks = [geometry.valid_taps((*least[:axis], n, *least[axis + 1 :]))[axis] for n in axis_sizes]
        if any(not torch.equal(mask, masks[0]) for mask in masks[1:]):
            raise ShapeError(
                "output_size",
                site.output_size,
                f"inputs of {axis_sizes[0]} to {axis_sizes[-1]} on axis {axis} give it, with different "
                "tap fields; say which with input_size=",
            )
    return least


def _masks(field: Tensor, site: Site) -> list[Tensor]:
    masks = _geometry(site).valid_taps(_input_size(site))
    dtype = wide(field).dtype
    return [mask.to(device=field.device, dtype=dtype) for mask in masks]


def _window_kinds(geometry: Geometry, axis: int) -> Tensor:
    """The distinct rows of the masks over all large images: left border, phases, right border."""
    span = geometry.dilation[axis] * geometry.kernel_size[axis] + sum(geometry.pads[axis])
    line = Geometry(
        geometry.kernel_size[axis : axis + 1],
        geometry.stride[axis : axis + 1],
        geometry.pads[axis : axis + 1],
        geometry.dilation[axis : axis + 1],
        geometry.padding_mode,
        geometry.transposed,
        geometry.output_padding[axis : axis + 1],
    )
    large = range(2 * span, 2 * span + geometry.stride[axis])
    return torch.cat([line.valid_taps((n,))[0] for n in large]).unique(dim=0).double()


def _thin_svd(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(mask, full_matrices=False)
    keep = s > 1e-9 * s.max()
    return u[:, keep], s[keep], vh[keep].mT


def _outer(vectors: list[Tensor]) -> list[Tensor]:
    """Each vector along an axis of its own, so that their product is the outer product."""
    n = len(vectors)
    return [v.reshape((1,) * i + (-1,) + (1,) * (n - 1 - i)) for i, v in enumerate(vectors)]
