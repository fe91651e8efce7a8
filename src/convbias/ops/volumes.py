"""Single volumes and their gradients, around the slow way that torch takes for many of them.

torch hands an image to oneDNN from so many numbers on (ATen's ``ConvParams::use_mkldnn``), and counts its
channels and first two axes: of a volume it forgets the third. With the largest two first it counts enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import convolve
from .call import Call
from .followers import batched
from .native import as_torchs

_FEW = 20480


def is_slow(call: Call) -> bool:
    """Whether torch takes its slow way for ``call``, and there is one around it."""
    if _order(call.input, call.weight, call.groups) is None:
        return False
    return convolve.absence(call) is None


def gradients(call: Call, gz: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
    """The gradients of input and weight that are wanted, by torch, from that of the convolution alone."""
    if not any(wanted):
        return [None, None]
    geometry, (input, padding) = call.geometry, call.geometry.padded(call.input)
    numbers = (geometry.stride, padding, geometry.dilation)
    tensors = (gz, input, call.weight)
    order = None if batched(gz) else _order(input, call.weight, call.groups)
    if order is not None:
        numbers = tuple(tuple(values[axis] for axis in order) for values in numbers)
        tensors = tuple(_turned(x, order).contiguous(memory_format=torch.channels_last_3d) for x in tensors)
    gz, x, w = tensors
    where = (*numbers, False, (0,) * geometry.dims, call.groups)
    found = torch.ops.aten.convolution_backward(gz, x, w, None, *where, [*wanted, False])[:2]
    if order is None:
        return found
    back = tuple(order.index(axis) for axis in range(len(order)))
    return [g if g is None else as_torchs(_turned(g, back), input, call.weight) for g in found]


def _order(input: Tensor, weight: Tensor, groups: int) -> tuple[int, ...] | None:
    """The axes of a single volume that torch counts enough of, largest first; None where it is as well."""
    if input.dim() != 5 or len(input) != 1 or groups != 1 or min(weight.shape[-2:]) > 3:
        return None
    # To turn many weights takes longer than the slow way.
    if weight.numel() > input.numel():
        return None
    if input.device.type != "cpu" or input.dtype != torch.float32:
        return None
    channels, *sizes = input.shape[1:]
    order = tuple(sorted(range(3), key=lambda axis: -sizes[axis]))
    counted, countable = (channels * math.prod(two) for two in (sizes[:2], [sizes[a] for a in order[:2]]))
    return order if counted <= _FEW < countable else None


def _turned(x: Tensor, order: Sequence[int]) -> Tensor:
    return x.permute(0, 1, *(2 + axis for axis in order))
