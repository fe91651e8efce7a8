"""Two convolutions, one of them pointwise, as one."""

# Much of torch, einsum above all, is untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import FoldRefused
from ..tying import Rank, Tying
from .conv import AffineConv
from .field import Field, Parameters


def compose(first: AffineConv, second: AffineConv, input_size: Sequence[int] | None = None) -> AffineConv:
    """``second(first(x))``, one of them pointwise: one convolution, where the other's windows stay.

    After a k×k, a 1×1 mixes its filters and their biases. Before a padded k×k, the 1×1's bias does not
    reach the padding, and becomes a tap bias.

    ``input_size``, of the image, is needed where the first bias is a map.
    """
    if first.out_channels != second.in_channels:
        raise FoldRefused("compose", f"{first.out_channels} filters into {second.in_channels} channels")
    if _is_pointwise(second) and not (first.geometry.transposed and max(second.geometry.stride) > 1):
        return _pointwise_after(first, second)
    if _is_pointwise(first) and max(first.geometry.stride) == 1:
        return _pointwise_before(first, second, input_size)
    if _is_pointwise(first) and not second.geometry.transposed and second.geometry.padding_mode == "zeros":
        return _pointwise_before(first, second, input_size)
    raise FoldRefused(
        "compose", "neither is a 1×1 convolution without padding, whose stride the other can take over"
    )


def _pointwise_after(first: AffineConv, second: AffineConv) -> AffineConv:
    groups = math.gcd(first.groups, second.groups)
    first, second = first.in_groups(groups), second.in_groups(groups)
    mix = second.grouped.flatten(2)
    weight = torch.einsum("gpo,goi...->gpi...", mix, first.grouped)
    steps = second.geometry.stride

    def on_filters(p: Tensor) -> Tensor:
        return torch.einsum("gpo,go...->gp...", mix, p.unflatten(0, (groups, -1))).flatten(0, 1)

    bias = _strided(first.settled, steps).mapped(on_filters, first.out_channels)
    stride = tuple(a * b for a, b in zip(first.geometry.stride, steps, strict=True))
    return first.with_grouped(weight, bias + second.settled, replace(first.geometry, stride=stride))


def _pointwise_before(first: AffineConv, second: AffineConv, input_size: Sequence[int] | None) -> AffineConv:
    between = None if input_size is None else first.geometry.output_size(input_size)
    shift = first.settled
    if shift.others or shift.tap is not None:
        if input_size is None:
            raise FoldRefused("compose", "the first bias is a map whose size is not known")
        shift = Field(maps=(shift.at(first.site(input_size)),), summed=shift.power)
    bias = second.bias + second.through(shift, between)
    groups = math.gcd(first.groups, second.groups)
    first, second = first.in_groups(groups), second.in_groups(groups)
    weight = torch.einsum("goj...,gji->goi...", second.grouped, first.grouped.flatten(2))
    steps, geometry = first.geometry.stride, second.geometry
    geometry = replace(
        geometry,
        stride=tuple(a * b for a, b in zip(geometry.stride, steps, strict=True)),
        dilation=tuple(a * b for a, b in zip(geometry.dilation, steps, strict=True)),
        pads=tuple((a * s, b * s) for (a, b), s in zip(geometry.pads, steps, strict=True)),
    )
    return second.with_grouped(weight, bias, geometry)


def _is_pointwise(conv: AffineConv) -> bool:
    g = conv.geometry
    strided = g.transposed and (max(g.stride) > 1 or any(g.output_padding))
    return g.kernel_size == (1,) * g.dims and not any(a or b for a, b in g.pads) and not strided


def _strided(bias: Field, steps: Sequence[int]) -> Field:
    """The field at every ``steps``-th place. A tap field follows the geometry by itself."""
    if max(steps) == 1:
        return bias
    every = (slice(None), *(slice(None, None, step) for step in steps))
    others: list[tuple[Tying, Parameters]] = []
    for tying, parameters in bias.others:
        if not isinstance(tying, Rank):
            raise FoldRefused("compose", f"a stride takes places out of the {tying!r} bias")
        level, u, v = parameters
        others.append((tying, (level, u, v[every])))
    return Field(tuple(m[every] for m in bias.maps), bias.tap, tuple(others), bias.summed)
