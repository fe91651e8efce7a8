"""A convolution with its bias field as a value."""

# Much of torch, einsum above all, is untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from ..errors import FoldRefused, ShapeError
from ..geometry import Geometry, Site
from ..tying import Tying
from .field import Field, Parameters


@final
@dataclass(frozen=True, eq=False)
class AffineConv:
    """``y = conv(x, weight) + B``: everything affine that a convolution can do.

    ``weight`` is in torch's layout. Make changed ones with the laws of ``convbias.affine.laws``.

    >>> conv = AffineConv(torch.randn(4, 3, 3, 3), Geometry.of(2, 3, padding=1))
    >>> conv(torch.randn(2, 3, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    weight: Tensor
    geometry: Geometry
    groups: int = 1
    bias: Field = field(default_factory=Field)

    def __post_init__(self) -> None:
        if tuple(self.weight.shape[2:]) != self.geometry.kernel_size:
            raise ShapeError(
                "weight", list(self.weight.shape), f"needs the kernel {self.geometry.kernel_size}"
            )
        if self.weight.shape[0] % self.groups:
            raise ShapeError("groups", self.groups, f"must divide the weight's {self.weight.shape[0]}")

    @property
    def in_channels(self) -> int:
        return self.weight.shape[0] if self.geometry.transposed else self.weight.shape[1] * self.groups

    @property
    def out_channels(self) -> int:
        return self.weight.shape[1] * self.groups if self.geometry.transposed else self.weight.shape[0]

    @property
    def grouped(self) -> Tensor:
        """The weight as ``(groups, C_out/groups, C_in/groups, *kernel)``, transposed or not."""
        split = self.weight.unflatten(0, (self.groups, -1))
        return split.transpose(1, 2) if self.geometry.transposed else split

    def with_grouped(self, weight: Tensor, bias: Field, geometry: Geometry | None = None) -> AffineConv:
        """The convolution with the weight ``(groups, C_out/groups, C_in/groups, *kernel)``."""
        geometry = geometry or self.geometry
        flat = (weight.transpose(1, 2) if geometry.transposed else weight).flatten(0, 1)
        return AffineConv(flat.contiguous(), geometry, weight.shape[0], bias)

    def with_bias(self, bias: Field) -> AffineConv:
        return replace(self, bias=bias)

    def site(self, input_size: Sequence[int] | None = None) -> Site:
        """Where the bias lives, with sizes where ``input_size`` is given."""
        if input_size is None:
            return Site(self.out_channels, self.geometry.dims, self.geometry)
        return Site.of(self.out_channels, self.geometry, input_size)

    def smallest(self, input_size: Sequence[int] | None = None) -> tuple[Tying, Parameters]:
        """The tying, and its parameters, that a layer needs for this bias."""
        return self.bias.smallest(self.site(input_size))

    @property
    def settled(self) -> Field:
        """The bias, its tap part as a tied one where every tap is valid everywhere."""
        if self.bias.tap is None or not self.geometry.covers:
            return self.bias
        return replace(self.bias, tap=None) + tied(self.bias.tap.flatten(1).sum(1), self.geometry.dims)

    def in_groups(self, groups: int) -> AffineConv:
        """The same in fewer groups: their kernels on the diagonal of larger ones, zeros beside."""
        if groups == self.groups:
            return self
        split = self.grouped.unflatten(0, (groups, -1))
        _, merged, outs, ins, *kernel = split.shape
        weight = split.new_zeros((groups, merged, outs, merged, ins, *kernel))
        for i in range(merged):
            weight[:, i, :, i] = split[:, i]
        return self.with_grouped(weight.flatten(3, 4).flatten(1, 2), self.bias)

    def linear(self, x: Tensor) -> Tensor:
        """``W∗x``: the convolution alone, without its bias."""
        return self.geometry.convolve(x, self.weight, None, self.groups)

    def through(self, shift: Field, input_size: Sequence[int] | None) -> Field:
        """``W∗T``, of a field of the input, as a field of the output.

        One number per channel gives a tap bias ``Σ_i W[c, i, t] T_i``, for the padding's zeros are not
        shifted; a tied one where there is no padding, or one that repeats shifted entries. A map gives a
        map. Raises FoldRefused for a map whose size is not known.
        """
        if shift.tap is not None or shift.others:
            raise FoldRefused("affine before", "the shift is no map; write it out at its site first")
        total = Field()
        for part in shift.maps:
            if part[0].numel() == 1:
                values = part.flatten().expand(self.in_channels).reshape(self.groups, -1)
                taps = torch.einsum("goi...,gi->go...", self.grouped, values.to(self.weight)).flatten(0, 1)
                shared = tied(taps.flatten(1).sum(1), self.geometry.dims)
                total += shared if self.geometry.covers else Field(tap=taps)
            else:
                total += Field(maps=(self._convolved(part, input_size),))
        power = shift.power.to(self.weight).expand(self.in_channels).reshape(self.groups, -1)
        summed = torch.einsum("goi,gi->go", self.grouped.flatten(3).square().sum(3), power).flatten()
        return replace(total, summed=summed)

    def _convolved(self, part: Tensor, input_size: Sequence[int] | None) -> Tensor:
        if input_size is None and 1 in part.shape[1:]:
            raise FoldRefused("affine before", f"a map of {tuple(part.shape)} needs the image's size")
        size = tuple(part.shape[1:] if input_size is None else input_size)
        full = part.to(self.weight).expand(self.in_channels, *size)
        return self.linear(full[None])[0]

    def __call__(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.bias.at(self.site(x.shape[2:])).to(x.dtype)


def tied(bias: Tensor, dims: int) -> Field:
    """The field of one number per filter, ``(C,)``."""
    return Field(maps=(bias.reshape(-1, *(1,) * dims),))


def identity(channels: int, dims: int, groups: int = 1, dtype: torch.dtype | None = None) -> AffineConv:
    """The convolution that changes nothing: a 1×1 kernel, one within each filter's own channel.

    >>> x = torch.randn(1, 4, 5)
    >>> bool((identity(4, 1, groups=2)(x) == x).all())
    True
    """
    eye = torch.eye(channels // groups, dtype=dtype).repeat(groups, 1)
    return AffineConv(eye.reshape(channels, -1, *(1,) * dims), Geometry.of(dims, 1), groups)


def average_pool(
    channels: int,
    dims: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dtype: torch.dtype | None = None,
) -> AffineConv:
    """Average pooling over windows that count their padding: a depthwise kernel of ``1/∏k``.

    >>> x = torch.randn(1, 2, 6, 6)
    >>> pool = torch.nn.AvgPool2d(3, 2, padding=1)
    >>> torch.allclose(average_pool(2, 2, 3, 2, padding=1)(x), pool(x), atol=1e-6)
    True
    """
    geometry = Geometry.of(dims, kernel_size, kernel_size if stride is None else stride, padding)
    weight = torch.ones(channels, 1, *geometry.kernel_size, dtype=dtype)
    return AffineConv(weight / weight[0].numel(), geometry, channels)
