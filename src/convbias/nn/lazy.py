"""The Lazy layers: input channels, and the size of a bias per output location, from the first input."""

# torch types its lazy mixin by protocols that no layer fulfils.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import UninitializedParameter
from torch.nn.modules.lazy import LazyModuleMixin

from ..errors import ShapeError
from ..tying import Tying
from ..tying.base import check_shapes
from .checks import check_channels
from .conv import Conv1d, Conv2d, Conv3d
from .convnd import ConvNd, Ints
from .transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d


class _Lazy(LazyModuleMixin, ConvNd):
    """A convolution whose ``in_channels`` and, where it needs one, ``output_size`` are not known yet."""

    def _make_parameters(self, device: Any, dtype: Any) -> None:
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        anywhere = replace(self._site(), output_size=self.output_size or (1,) * self.dims)
        shapes = self.tying.shapes(anywhere)
        if not shapes:
            self.register_parameter("bias", None)
        for name in shapes:
            setattr(self, name, UninitializedParameter(device=device, dtype=dtype))
        self._bias_names = tuple(shapes)

    def reset_parameters(self) -> None:
        if not self.has_uninitialized_params() and self.in_channels != 0:
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor, output_size: Sequence[int] | None = None) -> None:
        if input.dim() not in (self.dims + 1, self.dims + 2):
            return  # forward refuses it, in the words that the other layers use
        size = input.shape[-self.dims :]
        geometry = self.geometry()
        if output_size is not None:
            geometry = geometry.with_output_size(size, tuple(output_size)[-self.dims :])
        site = self._site()
        if self.tying.size_bound and self.output_size is None:
            found = geometry.output_size(size)
            if min(found) < 1:
                raise ShapeError("input", list(input.shape), f"gives an output of {found}, below 1")
            site = replace(site, output_size=found)
        # An input that is refused here leaves no size behind.
        shapes = self.tying.shapes(site)
        if self.has_uninitialized_params():
            self.in_channels = input.shape[-self.dims - 1]
            check_channels(self.in_channels, self.out_channels, self.groups)
            self.output_size = site.output_size
            self.weight.materialize(self._weight_shape())
            for name, shape in shapes.items():
                getattr(self, name).materialize(shape)
            self.reset_parameters()
        else:
            self.in_channels = self.weight.shape[0 if self.transposed else 1] * (
                1 if self.transposed else self.groups
            )
            check_shapes(self.tying, [p.shape for p in self._bias_parameters()], site)
            self.output_size = site.output_size
        self._place_labels()


class _LazyConv(_Lazy):
    def __init__(
        self,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: str | Ints = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool | str | Tying = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        output_size: Ints | None = None,
        activation: str | None = None,
    ) -> None:
        super().__init__(
            0,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            output_size=output_size,
            activation=activation,
        )


class _LazyConvTranspose(_Lazy):
    def __init__(
        self,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool | str | Tying = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        output_size: Ints | None = None,
        activation: str | None = None,
    ) -> None:
        super().__init__(
            0,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,
            device,
            dtype,
            output_size=output_size,
            activation=activation,
        )


class LazyConv1d(_LazyConv, Conv1d):
    """:class:`Conv1d` with ``in_channels`` and ``output_size`` from the first input."""

    cls_to_become = Conv1d


class LazyConv2d(_LazyConv, Conv2d):
    """:class:`Conv2d` with ``in_channels`` and ``output_size`` from the first input.

    >>> import torch
    >>> layer = LazyConv2d(8, 3, bias="untied")
    >>> _ = layer(torch.zeros(1, 3, 10, 10))
    >>> layer
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), bias='untied', output_size=(8, 8))
    """

    cls_to_become = Conv2d


class LazyConv3d(_LazyConv, Conv3d):
    """:class:`Conv3d` with ``in_channels`` and ``output_size`` from the first input."""

    cls_to_become = Conv3d


class LazyConvTranspose1d(_LazyConvTranspose, ConvTranspose1d):
    """:class:`ConvTranspose1d` with ``in_channels`` and ``output_size`` from the first input."""

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_LazyConvTranspose, ConvTranspose2d):
    """:class:`ConvTranspose2d` with ``in_channels`` and ``output_size`` from the first input."""

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_LazyConvTranspose, ConvTranspose3d):
    """:class:`ConvTranspose3d` with ``in_channels`` and ``output_size`` from the first input."""

    cls_to_become = ConvTranspose3d
