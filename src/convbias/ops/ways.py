"""Which of convbias's own convolutions runs a call, with its field and activation inside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from ..geometry import Geometry
from . import native, own
from .call import Call, Packed, recorded
from .choice import SMALL, chosen
from .choice import winograd as winograd_allowed
from .own import Shape

# With fewer outputs, Winograd's form of a weight that is not kept takes longer to make than it saves.
_WORTH_PACKING = 512


@final
@dataclass(frozen=True, eq=False)
class Plan:
    """The own convolution that is the fastest for inputs of one shape, and its sizes."""

    way: str
    shape: Shape
    out: tuple[int, ...]


@lru_cache(maxsize=1024)
def plan(
    input: tuple[int, ...], filters: int, geometry: Geometry, groups: int, winograd: bool
) -> Plan | None:
    """The own convolution that is faster than torch's (benchmarks/bench_ops.py), or None."""
    shape = Shape.of(input, filters, geometry)
    way = _way(shape, groups, winograd)
    return None if way is None else Plan(way, shape, geometry.output_size(input[2:]))


def _way(shape: Shape, groups: int, winograd: bool) -> str | None:
    least, weights = min(shape.channels, shape.filters), shape.channels * shape.filters
    kernel, dilation = tuple(shape.kernel), tuple(shape.dilation)
    plain = tuple(shape.stride) == dilation == (1, 1)
    if groups > 1:
        return "depthwise" if groups == shape.channels == shape.filters and least >= 16 else None
    if winograd and kernel == (3, 3) and plain and least >= 32 and shape.tiles >= 12:
        return "winograd"
    if (plain and kernel == (1, 1) and weights <= 2**16) or (dilation[1] == 1 and weights <= 2**8):
        return "direct"
    return None


def refusal(call: Call) -> str | None:
    """Why no own convolution runs the whole of ``call``, or None."""
    if call.packed is not None:
        return None if call.packed.way in own.WAYS else f"the weight is packed for {call.packed.way}"
    if recorded(call.tensors):
        return "a gradient is recorded"
    return unfit(call)


def unfit(call: Call) -> str | None:
    """Why no own convolution is faster for ``call``, its weight not packed before, or None."""
    if call.tying.count("+") >= native.TERMS:
        return f"it adds up to {native.TERMS} terms"
    reason = _foreign(call.input, call.weight, call.geometry)
    if reason is not None:
        return reason
    found = plan_of(call)
    if found is None:
        return "torch's convolution of such a shape is as fast"
    if found.way == "winograd" and found.shape.samples * math.prod(found.out) < _WORTH_PACKING:
        return "the weight is not packed before, which takes longer than so few outputs save"
    return None


def plan_of(call: Call) -> Plan | None:
    """The plan for ``call``."""
    return plan_for(call.input, call.weight, call.geometry, call.groups)


def plan_for(input: Tensor, weight: Tensor, geometry: Geometry, groups: int) -> Plan | None:
    """The plan for such arguments."""
    return plan(tuple(input.shape), weight.shape[0], geometry, groups, winograd_allowed())


def run(call: Call) -> Tensor:
    """The whole of ``call``, which must not have been refused."""
    packed = call.packed or _packed(plan_of(call), call.weight)
    found: Plan = packed.plan
    given = call.geometry.padded(call.input)[0] if call.geometry.padding_mode != "zeros" else call.input
    y = own.convolve(
        found.way, found.shape, given, packed.weight, found.out, call.bared.summands(), call.activation
    )
    return as_torchs(call, y)


def as_torchs(call: Call, y: Tensor) -> Tensor:
    """``y`` in the layout that torch's own convolution would have given it."""
    return y if _is_last(call.input) or _is_last(call.weight) else y.contiguous()


def worth_packing(input: Tensor, weight: Tensor, geometry: Geometry, groups: int) -> bool:
    """Whether an own convolution of such inputs is faster than torch's, its weight packed before."""
    if _foreign(input, weight, geometry) is not None:
        return False
    return plan_for(input, weight, geometry, groups) is not None


def pack(input: Tensor, weight: Tensor, geometry: Geometry, groups: int) -> Packed:
    """``weight`` for the own convolution of inputs like ``input``, which must be worth it."""
    return _packed(plan_for(input, weight, geometry, groups), weight)


def _packed(found: Plan | None, weight: Tensor) -> Packed:
    if found is None:
        raise AssertionError("what is not refused has a plan")
    return Packed(found.way, own.pack(found.way, found.shape, weight.detach()), found)


def _foreign(input: Tensor, weight: Tensor, geometry: Geometry) -> str | None:
    """Why no own convolution takes such arguments, however fast it is, or None."""
    if input.numel() < SMALL:
        return "the image is small"
    if chosen() == "aten":
        return "the backend 'aten' is chosen"
    if geometry.dims != 2 or input.dim() != 4 or geometry.transposed:
        return "it is for batches of images, not transposed"
    if not input.is_cpu or input.dtype != torch.float32 or weight.dtype != torch.float32:
        return "it is for float32 on the CPU"
    if not weight.numel() or weight.shape[2] > own.MOST_ROWS:
        return f"it is for kernels of 1 to {own.MOST_ROWS} rows"
    return native.absence()


def _is_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
