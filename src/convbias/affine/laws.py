"""What is affine around a convolution is one convolution and one bias field: the laws, exactly.

``conv(x) = W∗x + B`` below; a law returns the convolution that does all of it, or raises FoldRefused where
none does. Proofs are one line each: the sum over a window is linear, and zero padding adds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import FoldRefused
from .conv import AffineConv, tied
from .field import Field


def after(conv: AffineConv, scale: Tensor | None = None, shift: Field | None = None) -> AffineConv:
    """``a·conv(x) + T``: the weight ``a_c W``, the bias ``a_c B + T``.

    ``scale`` is ``(C_out,)``, ``shift`` a field of the output. A tied, tap, grid, … bias stays one.
    """
    weight, bias = conv.grouped, conv.bias
    if scale is not None:
        _same_length("affine after", "scale", scale, conv.out_channels)
        weight = weight * _spread(scale.reshape(conv.groups, -1, 1), conv)
        bias = bias.mapped(lambda p: p * scale.reshape(-1, *(1,) * (p.dim() - 1)), conv.out_channels)
    return conv.with_grouped(weight, bias + (shift or Field()))


def before(
    conv: AffineConv,
    scale: Tensor | None = None,
    shift: Field | None = None,
    input_size: Sequence[int] | None = None,
) -> AffineConv:
    """``conv(s·x + T)``: the weight ``W s_i``, the bias ``B + W∗T``.

    ``scale`` is ``(C_in,)``, ``shift`` a field of the input. The padding's zeros are not shifted, so that a
    shift per channel, ``(C_in,)``, becomes a tap bias ``Σ_i W[c, i, t] T_i``; without padding, and under
    circular, reflect and replicate padding, which repeat shifted entries, a tied one. A map becomes a
    map; ``input_size`` is needed where its own shape does not tell.
    """
    weight, bias = conv.grouped, conv.bias
    if shift is not None:
        bias = bias + conv.through(shift, input_size)
    if scale is not None:
        _same_length("affine before", "scale", scale, conv.in_channels)
        weight = weight * _spread(scale.reshape(conv.groups, 1, -1), conv)
    return conv.with_grouped(weight, bias)


def constant_channels(conv: AffineConv, channels: Mapping[int, Tensor]) -> AffineConv:
    """``conv(x with constant channels among its own)``: those leave the weight, ``W∗const`` joins the bias.

    ``channels`` gives, by input channel, a number ``()`` or a map ``(*in)``. A number, or a map of one
    number, becomes a tap bias: a plane of ones shows a network its border. Each group must lose equally many.
    """
    channels = {c: _number(value) for c, value in channels.items()}
    size = conv.in_channels // conv.groups
    lost = [sorted(c % size for c in channels if c // size == group) for group in range(conv.groups)]
    if any(not 0 <= c < conv.in_channels for c in channels):
        raise FoldRefused("constant channels", f"{sorted(channels)} of {conv.in_channels}")
    if len(set(map(len, lost))) != 1:
        raise FoldRefused("constant channels", "the groups have different numbers of them")
    if len(lost[0]) == size:
        raise FoldRefused("constant channels", "all channels are constant: nothing is left to convolve")
    total = conv.bias
    for shape, alike in _by_shape(channels).items():
        picked = conv.weight.new_zeros(conv.in_channels, *shape)
        for channel in alike:
            picked[channel] = channels[channel]
        shift = Field(maps=(picked,)) if shape else tied(picked, conv.geometry.dims)
        total = total + conv.through(shift, shape or None)
    kept = [[c for c in range(size) if c not in gone] for gone in lost]
    weight = torch.stack([w[:, keep] for w, keep in zip(conv.grouped, kept, strict=True)])
    return conv.with_grouped(weight, total)


def constant_padding(conv: AffineConv, pads: Sequence[tuple[int, int]], value: Tensor) -> AffineConv:
    """``conv(x padded with value)``, of a number or ``(C_in,)``: zero padding, and tied minus tap.

    ``B + v(ΣW − Σ_valid W)``: the taps outside the image read ``v`` instead of nothing. Zeros join the zeros
    that the convolution pads with itself; another value needs one that does not pad.
    """
    geometry = conv.geometry
    own = any(a or b for a, b in geometry.pads)
    if geometry.transposed:
        raise FoldRefused("constant padding", "a transposed convolution's padding crops, it adds nothing")
    if own and (geometry.padding_mode != "zeros" or bool(value.any())):
        raise FoldRefused("constant padding", "the convolution pads once more, around the constant")
    if any(min(pair) < 0 for pair in pads):
        raise FoldRefused("constant padding", f"{tuple(pads)} crops the image")
    bias = conv.settled
    if bias.tap is not None:
        raise FoldRefused("constant padding", "the tap bias counts the constant as the image's own")
    # Without pads of its own, a convolution's mode says nothing.
    both = tuple((a + c, b + d) for (a, b), (c, d) in zip(geometry.pads, pads, strict=True))
    padded = conv.with_grouped(conv.grouped, bias, replace(geometry, pads=both, padding_mode="zeros"))
    if not bool(value.any()):
        return padded
    values = tied(value.to(conv.weight).expand(conv.in_channels), geometry.dims)
    everywhere, inside = conv.through(values, None), padded.through(values, None)
    return padded.with_bias(bias + everywhere + inside.mapped(torch.neg, conv.out_channels))


def absorbed_by_linear(weight: Tensor, bias: Tensor | None, flat_field: Tensor) -> Tensor:
    """The bias of ``linear(flatten(x + B))`` as a linear layer on ``flatten(x)``: ``b + W·flatten(B)``."""
    gained = weight @ flat_field.flatten().to(weight)
    return gained if bias is None else bias + gained


def relu_floor(scale: Tensor, shift: Tensor) -> Tensor:
    """The ``c`` of ``a·relu(z) + b = a·max(z + c, c)``: ``b/a``, so that an affine map passes a ReLU.

    ``z + c`` is the convolution with ``c`` in its tied bias, and ``a`` alone goes on to the next, whose
    padding it does not disturb. (relu6: ``a·clamp(z + c, c, 6 + c)``.)
    """
    floor = shift / scale
    if bool((scale == 0).any()) or not bool(floor.isfinite().all()):
        raise FoldRefused("shifted ReLU", "a scale of 0, or so small that shift/scale overflows")
    return floor


def through_max_pool(scale: Tensor) -> None:
    """Whether ``max(a·x + b) = a·max(x) + b``: for a > 0. Raises FoldRefused otherwise."""
    if not bool((scale > 0).all()):
        raise FoldRefused("max pooling", "a scale of 0 or less turns the largest into another one")


def _spread(factors: Tensor, conv: AffineConv) -> Tensor:
    """``(groups, ·, ·)`` over the kernel's axes."""
    return factors.to(conv.weight).reshape(*factors.shape, *(1,) * conv.geometry.dims)


def _same_length(law: str, name: str, values: Tensor, channels: int) -> None:
    if tuple(values.shape) != (channels,):
        raise FoldRefused(law, f"{name} is {tuple(values.shape)}, not one number for each of {channels}")


def _by_shape(channels: Mapping[int, Tensor]) -> dict[tuple[int, ...], list[int]]:
    """The channels by the shape of their constants: numbers and maps."""
    found: dict[tuple[int, ...], list[int]] = {}
    for channel, values in channels.items():
        found.setdefault(tuple(values.shape), []).append(channel)
    return found


def _number(values: Tensor) -> Tensor:
    """A map of one number as that number, which fits images of any size."""
    first = values.flatten()[0]
    return first if bool((values == first).all()) else values
