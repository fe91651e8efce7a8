"""``ConvTranspose1d`` to ``ConvTranspose3d``: torch.nn's transposed convolution layers, with any bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import ShapeError
from ..geometry import Geometry
from ..tying import Tying
from .convnd import ConvNd, Ints


class _ConvTranspose(ConvNd):
    transposed = True

    def __init__(
        self,
        in_channels: int,
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
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            output_padding,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            output_size,
            activation,
        )

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return self._run(input, self.geometry_for(input, output_size))

    def geometry_for(self, input: Tensor, output_size: Sequence[int] | None) -> Geometry:
        """The geometry that gives ``output_size``, which may name the batch and channel axes too."""
        if output_size is None:
            return self.geometry()
        wanted, others = tuple(output_size), input.dim() - self.dims
        if len(wanted) == others + self.dims:
            wanted = wanted[others:]
        if len(wanted) != self.dims:
            raise ShapeError(
                "output_size",
                tuple(output_size),
                f"ConvTranspose{self.dims}D: for {input.dim()}D input, output_size must have {self.dims} or "
                f"{others + self.dims} elements (got {len(output_size)})",
            )
        return self.geometry().with_output_size(input.shape[others:], wanted)


class ConvTranspose1d(_ConvTranspose):
    """1D transposed convolution with any bias, as :class:`ConvTranspose2d`.

    >>> ConvTranspose1d(2, 4, 3, stride=2, bias="tap")
    ConvTranspose1d(2, 4, kernel_size=(3,), stride=(2,), bias='tap')
    """

    dims = 1


class ConvTranspose2d(_ConvTranspose):
    """2D transposed convolution with any bias, drop-in for ``torch.nn.ConvTranspose2d``.

        y[n, c, o] = act( Σ W[i, c, t] · x[n, i, j]  over all i, t, j with o = j·s − p + t·d   +  B[c, o] )

    Arguments are torch.nn's, in its order; ``bias``, ``output_size`` and ``activation`` as in
    :class:`Conv2d`. ``forward`` keeps torch's own ``output_size``, which a layer with a bias per output
    location takes only if it is its own. A tap bias gives one number per stride phase in the interior.

    >>> import torch
    >>> up = ConvTranspose2d(8, 4, 2, stride=2, bias="c h", output_size=(10, 12))
    >>> up(torch.zeros(1, 8, 5, 6)).shape, tuple(up.bias.shape)
    (torch.Size([1, 4, 10, 12]), (4, 10, 1))
    """

    dims = 2


class ConvTranspose3d(_ConvTranspose):
    """3D transposed convolution with any bias, as :class:`ConvTranspose2d`.

    >>> ConvTranspose3d(2, 4, 2, stride=2, bias="none")
    ConvTranspose3d(2, 4, kernel_size=(2, 2, 2), stride=(2, 2, 2), bias=False)
    """

    dims = 3
