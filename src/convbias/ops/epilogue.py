"""What follows a convolution, in place on its fresh output: bias field, activation, their gradients."""

from __future__ import annotations

from types import ModuleType
from typing import Any, final

import torch
from torch import Tensor

from ..tying.base import Summand
from . import aten
from .call import recorded
from .layout import Order, like_rows, memory_order

# Activations whose derivative needs what went in: it is kept where a gradient is recorded.
KEEPING = ("gelu", "gelu_tanh", "silu", "hardswish")


def finish(y: Tensor, summands: list[Summand], activation: str, kernels: ModuleType) -> Tensor:
    """``act(y + field)`` for a fresh ``y`` (N, C, *out), which is written over; ``kernels`` do the work.

    A gradient is recorded where torch records one.
    """
    values = [summand.values for summand in summands]
    order = memory_order(y)
    if order is None:
        raise AssertionError("the route lets no output pass whose samples are not dense")
    if recorded((y, *values)):
        return _Finish.apply(y, order, [s.index for s in summands], activation, kernels, *values)[0]
    return kernels.forward(y, order, summands, activation, False)


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
        out = kernels.forward(y, order, summands, activation, keep)
        ctx.mark_dirty(y)
        ctx.set_materialize_grads(False)
        ctx.plan = (order, indices, activation, kernels)
        ctx.save_for_backward(*([y] if activation else []), *values)
        return out, y if keep else None

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gy: Tensor | None, gz: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        order, indices, activation, kernels = ctx.plan
        saved = ctx.saved_tensors[0] if activation else None
        values = ctx.saved_tensors[1:] if activation else ctx.saved_tensors
        summed = any(ctx.needs_input_grad[5:])
        if torch.is_grad_enabled():
            # The gradient is to be differentiated too, which torch's operators can be.
            kernels = aten
        sums = None
        if gz is not None:
            if gy is not None:
                gz = gz + aten.backward(saved, gy, order, activation, False)[0]
            gz, sums = aten.backward(None, gz, order, "", summed)
        elif gy is not None:
            gz, sums = kernels.backward(saved, like_rows(gy, order), order, activation, summed)
        grads: list[Tensor | None] = [None] * len(values)
        for i, (value, index) in enumerate(zip(values, indices, strict=True)):
            if sums is not None and ctx.needs_input_grad[5 + i]:
                grads[i] = kernels.reduce(sums, order, Summand(value, index)).to(value.dtype)
        return gz, None, None, None, None, *grads
