"""The definition, written as plainly as the formula: the oracle for every kernel and every law.

    y[n, c, o] = act( Σ_{i,t} W[c, i, t] · x[n, i, o·s − p + t·d]  +  B[c, o] )

and for a transposed convolution the sum over all ``i, t`` with ``o = i·s − p + t·d``. Slow on purpose.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from ..geometry import Geometry
from .activations import ACTIVATIONS


def convolution(
    input: Tensor,
    weight: Tensor,
    field: Tensor | None,
    geometry: Geometry,
    groups: int = 1,
    activation: str = "",
) -> Tensor:
    """``input`` (N, C_in, *in) convolved by ``weight``, plus ``field`` (C_out, *out), activated.

    One tap at a time: every tap's products are added at the outputs where the tap is valid.
    """
    if geometry.padding_mode != "zeros":
        around = [p for pair in reversed(geometry.pads) for p in pair]
        input = F.pad(input, around, geometry.padding_mode)
        unpadded = ((0, 0),) * geometry.dims
        geometry = Geometry(geometry.kernel_size, geometry.stride, unpadded, geometry.dilation)
    size = input.shape[2:]
    out_size = geometry.output_size(size)
    channels = weight.shape[1] * groups if geometry.transposed else weight.shape[0]
    y = input.new_zeros(len(input), channels, *out_size)
    valid = geometry.valid_taps(size)
    for tap in product(*map(range, geometry.kernel_size)):
        outputs = [valid[axis][:, t].nonzero().flatten() for axis, t in enumerate(tap)]
        inputs = [_read(geometry, axis, o, tap[axis]) for axis, o in enumerate(outputs)]
        entries = input[(..., *_grid(inputs))]
        y[(..., *_grid(outputs))] += _products(entries, weight[(..., *tap)], groups, geometry.transposed)
    if field is not None:
        y = y + field
    return ACTIVATIONS[activation](y) if activation else y


def _read(geometry: Geometry, axis: int, output: Tensor, tap: int) -> Tensor:
    """Which input entry each output reads through ``tap``."""
    before, reach = geometry.pads[axis][0], tap * geometry.dilation[axis]
    if geometry.transposed:
        return (output + before - reach) // geometry.stride[axis]
    return output * geometry.stride[axis] - before + reach


def _products(entries: Tensor, weight: Tensor, groups: int, transposed: bool) -> Tensor:
    """The channels' part of the sum: ``Σ_i W[c, i] x[n, i, o]`` within each group."""
    x = entries.unflatten(1, (groups, -1))
    w = weight.unflatten(0, (groups, -1))
    return torch.einsum("ngi...,gic->ngc..." if transposed else "ngi...,gci->ngc...", x, w).flatten(1, 2)


def _grid(indices: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.meshgrid(*indices, indexing="ij")
