"""``Conv1d`` to ``Conv3d``: torch.nn's convolution layers, with any bias."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..tying import Tying
from .convnd import ConvNd, Ints


class _Conv(ConvNd):
    transposed = False

    def __init__(
        self,
        in_channels: int,
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
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            0,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            output_size,
            activation,
        )

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return self._run(input, self.geometry(), residual)


class Conv1d(_Conv):
    """1D convolution of ``(N, C_in, L)`` or ``(C_in, L)`` with any bias, as :class:`Conv2d`.

    >>> import torch
    >>> genes = Conv1d(4, 300, 19, bias="untied", output_size=482)
    >>> genes(torch.zeros(1, 4, 500)).shape, tuple(genes.bias.shape)
    (torch.Size([1, 300, 482]), (300, 482))
    """

    dims = 1


class Conv2d(_Conv):
    """2D convolution with any bias, drop-in for ``torch.nn.Conv2d``.

        y[n, c, o] = act( Σ_{i,t} W[c, i, t] · x[n, i, o·s − p + t·d]  +  B[c, o] )

    Arguments are torch.nn's, in its order. ``bias`` takes a bool, a tying or its spelling (see
    :func:`convbias.parse`): which entries of the bias field ``B`` ``(C_out, *out)`` share a parameter. Two
    keywords are new: ``output_size``, which a bias per output location needs to know (the tyings that
    follow the image ignore it), and ``activation``, a nonlinearity after the bias. When it is called, a
    ``residual`` of the output's shape can be given too, which is added before the activation: the sum of a
    residual block, at the cost of reading it.

    Input ``(N, C_in, H, W)`` or ``(C_in, H, W)``; output ``(N, C_out, H_out, W_out)`` or without N.
    The same seed gives the weights and the tied bias of torch.nn's layer; every finer tying starts as
    that very function.

    Raises ShapeError for sizes that do not fit, TyingError for a tying that cannot be read or had.

    >>> import torch
    >>> layer = Conv2d(3, 8, 3, padding=1, bias="c + h w", output_size=(5, 6))
    >>> {name: tuple(p.shape) for name, p in layer.named_parameters() if "bias" in name}
    {'bias': (8,), 'bias_1': (1, 5, 6)}
    >>> layer(torch.zeros(2, 3, 5, 6)).shape
    torch.Size([2, 8, 5, 6])
    """

    dims = 2


class Conv3d(_Conv):
    """3D convolution of ``(N, C_in, D, H, W)`` or ``(C_in, D, H, W)`` with any bias, as :class:`Conv2d`.

    >>> Conv3d(1, 2, 3, bias="tap")
    Conv3d(1, 2, kernel_size=(3, 3, 3), stride=(1, 1, 1), bias='tap')
    """

    dims = 3
