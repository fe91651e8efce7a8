"""Convolutions as one step with what follows them where a gradient is recorded; own ones where faster."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import own, ways
from .call import Call, recorded
from .choice import chosen
from .epilogue import KEEPING, native_refusal, too_few
from .followers import differentiable
from .ways import Plan


def refusal(call: Call) -> str | None:
    """Why no own convolution runs ``call`` where a gradient is recorded, or None."""
    if not recorded(call.tensors):
        return "no gradient is recorded"
    reason = _bent(call) or ways.unfit(call)
    if reason is not None:
        return reason
    way = ways.planned(call).way
    # torch's weight gradients of channels by themselves take too long for any size.
    if way == "depthwise" or chosen() == "native":
        return None
    return too_few(call, _outputs(call), saves=way == "winograd")


def is_joined(call: Call) -> bool:
    """Whether torch's convolution is differentiated as one with what follows it.

    The gradient between the two is nobody else's then.
    """
    if not recorded(call.tensors) or not call.fielded or not is_whole(call) or _bent(call) is not None:
        return False
    input = call.input
    if call.geometry.transposed or input.dtype != call.weight.dtype:
        return False
    return native_refusal(call, input.dtype, _outputs(call)) is None


def _outputs(call: Call) -> int:
    """How many numbers the output has."""
    size = call.geometry.output_size(call.input.shape[2:])
    return len(call.input) * len(call.weight) * math.prod(size)


def _bent(call: Call) -> str | None:
    if call.geometry.padding_mode != "zeros" or any(first != last for first, last in call.geometry.pads):
        return "the padding is not by as many zeros on both sides"
    return None


def is_whole(call: Call) -> bool:
    """Whether field and activation are inside: what is saved for the gradient is the output then."""
    return call.activation not in KEEPING


def plan_of(call: Call) -> Plan | None:
    """The own convolution that is faster for ``call`` and its gradients, or None."""
    return None if _bent(call) or ways.unfit(call) else of_gradients(ways.planned(call))


def of_gradients(plan: Plan | None) -> Plan | None:
    """``plan`` where own kernels make its gradients too, or None."""
    return None if plan is None or plan.way in ("direct", "pointwise") else plan


def gradients(plan: Plan | None, call: Call, gz: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
    """Those of input and weight that are wanted, from that of their convolution; own kernels by ``plan``."""
    found: list[Tensor | None] = [None, None]
    if plan is not None and not differentiable(gz):
        found[0] = _of_input(plan, call.weight, gz) if wanted[0] else None
        found[1] = _of_weight(plan, call.input, gz) if wanted[1] else None
    left = [want and gradient is None for want, gradient in zip(wanted, found, strict=True)]
    if not any(left):
        return found
    geometry, (input, padding) = call.geometry, call.geometry.padded(call.input)
    where = (geometry.stride, padding, geometry.dilation, False, (0,) * geometry.dims, call.groups)
    theirs = torch.ops.aten.convolution_backward(gz, input, call.weight, None, *where, [*left, False])
    return [mine if mine is not None else their for mine, their in zip(found, theirs, strict=False)]


def _of_input(plan: Plan, weight: Tensor, gz: Tensor) -> Tensor | None:
    """The gradient of the input, a convolution by the weight turned round; None where torch's is as fast."""
    if tuple(plan.shape.stride) != (1, 1):
        return None
    packed = own.pack(plan.way, plan.turned.shape, weight, turned=True)
    return plan.turned(gz, packed=packed)


def _of_weight(plan: Plan, input: Tensor, gz: Tensor) -> Tensor | None:
    """The gradient of the weight, or None where torch's is as fast."""
    shape = plan.shape
    if plan.way != "depthwise" or shape.kernel[1] not in (3, 5, 7, 9):
        return None
    if shape.stride[1] > 2 or shape.dilation[1] > 1:
        return None
    return own.depthwise_weights(shape, input, gz)
