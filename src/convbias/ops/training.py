"""Convolutions as one step with what follows them where a gradient is recorded; own ones where faster."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ..tying.base import Summand
from . import aten, native, volumes, ways
from .call import Call, recorded
from .choice import chosen
from .epilogue import KEEPING, hand_back, native_refusal, reduced, too_few
from .followers import differentiable
from .layout import Order, last_order
from .own import Shape
from .ways import Plan

# By how many times fewer outputs what a convolution and its gradients save is worth a step of its own: by
# Winograd of images, and of volumes.
_SAVES = 4, 32


def refusal(call: Call) -> str | None:
    """Why no own convolution runs ``call`` where a gradient is recorded, or None."""
    if not recorded(call.tensors):
        return "no gradient is recorded"
    reason = _bent(call) or ways.unfit(call)
    if reason is not None:
        return reason
    plan = ways.planned(call)
    # torch's weight gradients of channels by themselves take too long, but for few taps and places.
    light = plan.shape.kernel[1] <= 3 and max(plan.shape.stride) > 1
    if (plan.way == "depthwise" and not light) or chosen() == "native":
        return None
    saves = 0 if of_gradients(plan) is None else 1
    if plan.way == "winograd":
        saves = _SAVES[not plan.shape.is_of_images]
    return too_few(call, _outputs(call), saves)


def is_joined(call: Call) -> bool:
    """Whether torch's convolution is differentiated as one with what follows it.

    The gradient between the two is nobody else's then.
    """
    if not recorded(call.tensors) or _bent(call) is not None or call.is_mistyped:
        return False
    if volumes.is_slow(call):
        return True
    if not call.fielded or not is_whole(call):
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
    return call.activation not in KEEPING and (native.unread(call.tying) or native.absence()) is None


def plan_of(call: Call, wanted: bool) -> Plan | None:
    """The own convolution that is faster for ``call`` and its gradients, or None.

    Or for the gradient of its weight alone, if that is ``wanted``.
    """
    plan = None if _bent(call) or ways.unfit(call) else of_gradients(ways.planned(call))
    return plan or of_weights(call, wanted)


def of_weights(call: Call, wanted: bool) -> Plan | None:
    """The plan for the gradient of the weight alone, if it is ``wanted``; None where torch's is as fast."""
    return ways.plan_of_weights(call) if wanted and not _bent(call) else None


def of_gradients(plan: Plan | None) -> Plan | None:
    """``plan`` where own kernels make its gradients too, or None."""
    if plan is None or plan.way == "direct" or (plan.way == "pointwise" and not _in_one_pass(plan.shape)):
        return None
    return plan


def _in_one_pass(shape: Shape) -> bool:
    """Whether all gradients of a pointwise convolution are faster made together.

    Sums of the weight's gradient, some of them side by side, stay in the cache, and take no more memory than
    the gradient that is not written out.
    """
    if tuple(shape.stride) != (1, 1) or shape.channels * shape.filters > 2**16:
        return False
    return math.prod(shape.out) >= 8 * 56 and shape.outputs >= 16 * shape.channels


def backward(
    plan: Plan | None,
    call: Call,
    y: Tensor | None,
    gy: Tensor,
    order: Order,
    summands: list[Summand],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of input, weight and summands that are wanted, from that of the output ``y``."""
    if plan is None or differentiable(gy):
        kernels = aten if native.absence() else native
        gz, of_field = hand_back(y, gy, order, summands, call.activation, kernels, wanted[2:], local=True)
        return [*volumes.gradients(call, gz, wanted[:2]), *of_field]
    asked = (*wanted[:2], any(wanted[2:]))
    input, weight, field, gz = plan.gradients(call.input, call.weight, y, gy, call.activation, asked)
    if gz is not None:
        theirs = volumes.gradients(call, gz, (wanted[0] and input is None, wanted[1] and weight is None))
        input, weight = input if theirs[0] is None else theirs[0], weight if theirs[1] is None else theirs[1]
    return [input, weight, *reduced(field, last_order(call.geometry.dims), summands, native, wanted[2:])]
