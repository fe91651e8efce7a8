"""Branches that are summed, as one convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..errors import FoldRefused
from ..geometry import Geometry
from .conv import AffineConv
from .field import Field


def parallel(*branches: AffineConv, input_size: Sequence[int] | None = None) -> AffineConv:
    """``Σ branch(x)``: the kernels laid over each other where their windows lie, the fields added.

    A 1×1 branch (or the identity) lands on the tap that reads its entry. Branches whose outputs are equally
    large at one ``input_size`` only are one convolution there.
    """
    groups = math.gcd(*(branch.groups for branch in branches))
    geometry = _common_geometry([branch.geometry for branch in branches], input_size)
    channels = {(branch.in_channels, branch.out_channels) for branch in branches}
    if len(channels) > 1:
        raise FoldRefused("parallel", f"branches of different channels (in, out): {sorted(channels)}")
    parts = [_embedded(branch.in_groups(groups), geometry) for branch in branches]
    weight = torch.stack([part.grouped for part in parts]).sum(0)
    return parts[0].with_grouped(weight, sum((part.bias for part in parts), Field()))


def cropping(conv: AffineConv, crops: Sequence[tuple[int, int]]) -> AffineConv:
    """``conv(x without crops)``: zeros in the kernel where it would read what is cropped away.

    ``crops`` are (before, after) per axis. A side that is cropped cannot be padded as well: where the
    padding's zeros were, the image's own entries are.
    """
    geometry = conv.geometry
    if geometry.transposed:
        raise FoldRefused("cropping", "a transposed convolution writes where others read")
    pairs, repeats = list(zip(geometry.pads, crops, strict=True)), geometry.padding_mode != "zeros"
    if any((a and p) or (b and q) or (repeats and (a or b) and (p or q)) for (p, q), (a, b) in pairs):
        raise FoldRefused("cropping", "the convolution pads where the image is cropped")
    moved = replace(geometry, pads=tuple((p - a, q - b) for (p, q), (a, b) in pairs))
    return _embedded(replace(conv, geometry=moved), _reaching(moved, crops))


def evened(conv: AffineConv) -> AffineConv:
    """The same convolution padded alike on both sides: zeros in the kernel where it was padded less."""
    sides = [(max(pair) - pair[0], max(pair) - pair[1]) for pair in conv.geometry.pads]
    return _embedded(conv, _reaching(conv.geometry, sides))


def _reaching(geometry: Geometry, further: Sequence[tuple[int, int]]) -> Geometry:
    """The same windows with a kernel that reaches ``further`` before and after, and as much more padding."""
    kernel: list[int] = []
    dilation: list[int] = []
    for axis, (a, b) in enumerate(further):
        reads = _reads(geometry, axis)
        every = sorted({*reads, reads[0] - a, reads[-1] + b})
        step = math.gcd(*(offset - every[0] for offset in every)) or 1
        kernel.append((every[-1] - every[0]) // step + 1)
        dilation.append(step)
    pads = tuple((p + a, q + b) for (p, q), (a, b) in zip(geometry.pads, further, strict=True))
    return replace(geometry, kernel_size=tuple(kernel), dilation=tuple(dilation), pads=pads)


def _common_geometry(geometries: Sequence[Geometry], input_size: Sequence[int] | None) -> Geometry:
    """The geometry whose windows contain those of all: same outputs, a kernel that reaches as far."""
    first = geometries[0]
    if all(g == first for g in geometries):
        return first
    if any(g.transposed for g in geometries):
        raise FoldRefused("parallel", "transposed branches of different geometry")
    if len({g.stride for g in geometries}) > 1:
        raise FoldRefused("parallel", f"strides {sorted({g.stride for g in geometries})} differ")
    modes = {g.padding_mode for g in geometries if any(a or b for a, b in g.pads)} or {"zeros"}
    if len(modes) > 1:
        raise FoldRefused("parallel", f"paddings {sorted(modes)} differ")
    kernel: list[int] = []
    dilation: list[int] = []
    pads: list[tuple[int, int]] = []
    for axis in range(first.dims):
        lines = [_reads(g, axis) for g in geometries]
        # How far the last window may begin behind the image's end: which says how many windows there are.
        surplus = {g.pads[axis][1] - reads[-1] for g, reads in zip(geometries, lines, strict=True)}
        if len(surplus) > 1 and input_size is None:
            raise FoldRefused(
                "parallel", f"the branches' outputs differ in size along axis {axis} at some sizes"
            )
        if len({(input_size[axis] + one - 1) // first.stride[axis] for one in surplus if input_size}) > 1:
            raise FoldRefused("parallel", f"the branches' outputs differ in size along axis {axis}")
        every = sorted({offset for reads in lines for offset in reads})
        step = math.gcd(*(offset - every[0] for offset in every)) or 1
        kernel.append((every[-1] - every[0]) // step + 1)
        dilation.append(step)
        # Of equal use, one that pads both sides alike needs no padding of its own.
        even = -every[0] - every[-1]
        pads.append((-every[0], (even if even in surplus else max(surplus)) + every[-1]))
    return replace(
        first,
        kernel_size=tuple(kernel),
        pads=tuple(pads),
        dilation=tuple(dilation),
        padding_mode=modes.pop(),
    )


def _reads(geometry: Geometry, axis: int) -> list[int]:
    """Where the taps of an axis read, from the output's own place on."""
    before, step = geometry.pads[axis][0], geometry.dilation[axis]
    return [t * step - before for t in range(geometry.kernel_size[axis])]


def _embedded(conv: AffineConv, geometry: Geometry) -> AffineConv:
    """``conv`` with its taps laid where ``geometry`` reads the same entries."""
    if conv.geometry == geometry:
        return conv
    where: list[torch.Tensor] = []
    for axis in range(geometry.dims):
        known = {offset: t for t, offset in enumerate(_reads(geometry, axis))}
        where.append(torch.tensor([known[offset] for offset in _reads(conv.geometry, axis)]))
    grid = torch.meshgrid(*where, indexing="ij")
    weight = conv.grouped.new_zeros(*conv.grouped.shape[:3], *geometry.kernel_size)
    weight[(..., *grid)] = conv.grouped
    bias = conv.settled
    if bias.tap is not None:
        taps = bias.tap.new_zeros(len(bias.tap), *geometry.kernel_size)
        taps[(..., *grid)] = bias.tap
        bias = replace(bias, tap=taps)
    return conv.with_grouped(weight, bias, geometry)
