"""What follows a convolution, in place on its fresh output: bias field, activation, their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, final

import torch
from torch import Tensor

from ..tying.base import Summand
from . import aten, choice, native
from .activations import CHEAP
from .call import Call, recorded
from .choice import chosen
from .followers import differentiable
from .layout import Order, like_rows, memory_order

IS_CHEAP = "a relu alone is left: torch's own, in place, is as fast"

# Activations whose derivative needs what went in: it is kept where a gradient is recorded.
KEEPING = ("gelu", "gelu_tanh", "silu", "hardswish")


def finish(y: Tensor, summands: list[Summand], activation: str, kernels: ModuleType) -> Tensor:
    """``act(y + field)`` for a fresh ``y`` (N, C, *out), which is written over; ``kernels`` do the work.

    A gradient is recorded where torch records one.
    """
    values = [summand.values for summand in summands]
    if recorded((y, *values)):
        indices = [summand.index for summand in summands]
        return _Finish.apply(y, order_of(y), indices, activation, kernels, *values)[0]
    return finishing(y, summands, activation, kernels)(y)


def finishing(
    y: Tensor, summands: list[Summand], activation: str, kernels: ModuleType
) -> Callable[[Tensor], Tensor]:
    """The same, without a gradient, for all that lie like ``y``."""
    return kernels.Epilogue(tuple(y.shape[1:]), order_of(y), summands, activation)


def native_refusal(call: Call, dtype: torch.dtype, numbers: int) -> str | None:
    """Why the own kernels do not finish ``call``, whose output has so many ``numbers``, or None."""
    if is_cheap(call) and chosen() != "native":
        return IS_CHEAP
    if not numbers or chosen() != "native":
        told = too_few(call, numbers)
        if told is not None:
            return told
    if chosen() == "aten":
        return "the backend 'aten' is chosen"
    if call.input.device.type != "cpu" or dtype not in native.TYPES:
        return "it is for float32, bfloat16 and float16 on the CPU"
    return native.unread(call.tying) or native.absence()


def too_few(call: Call, numbers: int, saves: int = 0) -> str | None:
    """Why torch's single steps finish an output of so many ``numbers``, or None.

    Where its convolution ``saves`` some, or several times more than what follows it, fewer are worth it.
    """
    least = choice.SMALL
    if recorded(call.tensors):
        # Of a single image the gradient is the field's as it is: nothing is summed over the batch.
        alone = len(call.input) == 1 and not saves
        least = choice.SMALL_STEP * (choice.ALONE if alone else 1) // max(saves, 1)
    if numbers < least:
        return f"the output has fewer than {least} numbers: torch's single steps are as fast"
    return None


def is_cheap(call: Call) -> bool:
    """Whether an activation is left alone that torch does in place as fast as anything."""
    return call.activation in CHEAP and not call.fielded


def order_of(y: Tensor) -> Order:
    """How the samples of ``y`` lie, which must be dense."""
    order = memory_order(y)
    if order is None:
        raise AssertionError("the route lets no output pass whose samples are not dense")
    return order


@final
class _Finish(torch.autograd.Function):
    """:func:`finish` as torch differentiates it. Returns the output and what went into the activation."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        order: Order,
        indices: list[tuple[Tensor, ...]],
        activation: str,
        kernels: ModuleType,
        *values: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        summands = [Summand(v, i) for v, i in zip(values, indices, strict=True)]
        keep = activation in KEEPING
        out = kernels.Epilogue(tuple(y.shape[1:]), order, summands, activation)(y, keep)
        ctx.mark_dirty(y)
        ctx.set_materialize_grads(False)
        # Of their values the gradients need the shapes alone: who changes them before is free to.
        shapes = [Summand(s.values.detach(), s.index) for s in summands]
        ctx.plan = (order, shapes, activation, kernels)
        ctx.save_for_backward(y if activation else None)
        return out, y if keep else None

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gy: Tensor | None, gz: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        order, summands, activation, kernels = ctx.plan
        (saved,) = ctx.saved_tensors
        if gz is not None:
            if gy is not None:
                gz = gz + aten.backward(saved, gy, order, activation, False)[0]
            saved, gy, activation, kernels = None, gz, "", aten
        if gy is None:
            return (None,) * (5 + len(summands))
        gz, grads = hand_back(saved, gy, order, summands, activation, kernels, ctx.needs_input_grad[5:])
        return gz, None, None, None, None, *grads


def hand_back(
    saved: Tensor | None,
    gy: Tensor,
    order: Order,
    summands: list[Summand],
    activation: str,
    kernels: ModuleType,
    wanted: Sequence[bool],
    local: bool = False,
) -> tuple[Tensor, list[Tensor | None]]:
    """The gradients of ``z`` and of the summands that are wanted, from that of ``y = act(z + field)``.

    Where nobody else gets the ``local`` gradient of ``z``, that of a single image is its field's as well.
    """
    if differentiable(gy):
        kernels = aten
    if saved is not None:  # hooks may bring it back from elsewhere
        saved = like_rows(saved, order)
    one = local and bool(activation) and len(gy) == 1 and gy.dtype is torch.float32
    gz, sums = kernels.backward(saved, like_rows(gy, order), order, activation, any(wanted) and not one)
    return gz, reduced(gz[0] if one else sums, order, summands, kernels, wanted)


def reduced(
    sums: Tensor | None, order: Order, summands: list[Summand], kernels: ModuleType, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of the summands that are wanted from the field's, ``sums``, which lies in ``order``."""
    return [
        kernels.reduce(sums, order, summand).to(summand.values.dtype) if sums is not None and want else None
        for summand, want in zip(summands, wanted, strict=True)
    ]
