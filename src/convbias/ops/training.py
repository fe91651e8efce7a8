"""Own convolutions where a gradient is recorded, and those of their gradients faster than torch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from ..geometry import Geometry
from ..tying.base import Summand
from . import native, own, ways
from .call import Call, recorded
from .epilogue import KEEPING, hand_back
from .layout import as_torchs
from .ways import Plan


def refusal(call: Call) -> str | None:
    """Why no own convolution runs ``call`` where a gradient is recorded, or None."""
    return unfit(call) if recorded(call.tensors) else "no gradient is recorded"


def unfit(call: Call) -> str | None:
    """Why no own convolution is faster for a training step of ``call``, or None."""
    if call.geometry.padding_mode != "zeros" or any(first != last for first, last in call.geometry.pads):
        return "the padding is not by as many zeros on both sides"
    reason = ways.unfit(call)
    if reason is None and ways.planned(call).way in ("direct", "pointwise"):
        return "torch's gradients of such a shape are as fast"
    return reason


def whole(call: Call) -> bool:
    """Whether field and activation are inside: what is saved for the gradient is the output then."""
    return call.activation not in KEEPING


def convolve(call: Call) -> Tensor:
    """``call``, which must not have been refused: the whole, or without field and activation."""
    summands, activation = (call.summands(), call.activation) if whole(call) else ([], "")
    given = (ways.planned(call), call.geometry, call.groups, [s.index for s in summands], activation)
    y = _Convolution.apply(call.input, call.weight, *given, *(s.values for s in summands))
    return as_torchs(y, call.input, call.weight)


@final
class _Convolution(torch.autograd.Function):
    """A convolution with its field and activation, as torch differentiates it."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        plan: Plan,
        geometry: Geometry,
        groups: int,
        indices: list[tuple[Tensor, ...]],
        activation: str,
        *values: Tensor,
    ) -> Tensor:
        summands = [Summand(v, i) for v, i in zip(values, indices, strict=True)]
        packed = own.pack(plan.way, plan.shape, weight)
        y = own.Convolution(plan.way, plan.shape, packed, plan.out, summands, activation)(input)
        ctx.where = (plan, geometry, groups, indices, activation)
        ctx.save_for_backward(input, weight, y if activation else None, *values)
        return y

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gy: Tensor
    ) -> tuple[Tensor | None, ...]:
        plan, geometry, groups, indices, activation = ctx.where
        input, weight, y, *values = ctx.saved_tensors
        call = Call(input, weight, (), "none", geometry, groups, activation)
        summands = [Summand(v, i) for v, i in zip(values, indices, strict=True)]
        needed = ctx.needs_input_grad
        gz, grads = hand_back(y, gy, own.ORDER, summands, activation, native, needed[7:])
        found = gradients(plan, call, gz, needed[:2])
        return *found, None, None, None, None, None, *grads


def gradients(plan: Plan | None, call: Call, gz: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
    """Those of input and weight that are wanted, from that of their convolution; own kernels by ``plan``."""
    found: list[Tensor | None] = [None, None]
    # A gradient that is to be differentiated too is made of torch's operators, which can be.
    if plan is not None and not torch.is_grad_enabled():
        found[0] = _of_input(plan, call.input, call.weight, gz) if wanted[0] else None
        found[1] = _of_weight(plan, call.input, gz) if wanted[1] else None
    left = [want and gradient is None for want, gradient in zip(wanted, found, strict=True)]
    if not any(left):
        return found
    geometry, (input, padding) = call.geometry, call.geometry.padded(call.input)
    where = (geometry.stride, padding, geometry.dilation, False, (0,) * geometry.dims, call.groups)
    theirs = torch.ops.aten.convolution_backward(gz, input, call.weight, None, *where, [*left, False])
    return [mine if mine is not None else their for mine, their in zip(found, theirs, strict=False)]


def _of_input(plan: Plan, input: Tensor, weight: Tensor, gz: Tensor) -> Tensor | None:
    """The gradient of the input, a convolution by the weight turned round; None where torch's is as fast."""
    if tuple(plan.shape.stride) != (1, 1):
        return None
    turned = plan.shape.turned()
    packed = own.pack(plan.way, turned, weight, turned=True)
    return own.Convolution(plan.way, turned, packed, tuple(input.shape[2:]))(gz)


def _of_weight(plan: Plan, input: Tensor, gz: Tensor) -> Tensor | None:
    """The gradient of the weight, or None where torch's is as fast."""
    shape = plan.shape
    if plan.way != "depthwise" or shape.kernel[1] not in (5, 7, 9):
        return None
    if shape.stride[1] > 2 or shape.dilation[1] > 1:
        return None
    return own.depthwise_weights(shape, input, gz)
