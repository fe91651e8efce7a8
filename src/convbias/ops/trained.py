"""A call whose gradient is recorded, of which it is settled what runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from ..tying.base import Summand
from . import convolve, native, own, training, volumes, ways
from .call import Call, summands_of
from .epilogue import order_of
from .layout import form_of, memory_order
from .ways import Plan


@final
class Trained:
    """``call`` by ``plan``, or by torch's convolution and an own kernel, for tensors that lie like its own.

    The whole of it, or without field and activation. What the kernels are given is made once: beside
    convolutions, which leave nothing of it in the caches, Python takes as long as a small one.

    Equivalent to: ``route.run(call._replace(input=input, weight=weight, bias=bias))``.
    """

    def __init__(self, call: Call, plan: Plan | None) -> None:
        self.is_whole = training.is_whole(call)
        call = call.bared if self.is_whole else call._replace(bias=(), tying="none", activation="")
        self.plan = None if plan is None or plan.weights_alone else plan
        self.activation = call.activation
        self.geometry, self.groups = call.geometry, call.groups
        self.backward_plan = training.of_gradients(plan)
        self._is_slow_volume = volumes.is_slow(call)
        self._tying = call.tying if call.fielded else None
        self._site, self._form = call.site, form_of(call.input, call.weight)
        self._ready: tuple[object, Any] | None = None

    def __call__(self, input: Tensor, weight: Tensor, bias: Sequence[Tensor]) -> Tensor:
        summands = [] if self._tying is None else summands_of(bias, self._tying, self._site)
        indices = [summand.index for summand in summands]
        return _Convolution.apply(input, weight, self, indices, *(summand.values for summand in summands))

    def forward(self, input: Tensor, weight: Tensor, summands: list[Summand]) -> Tensor:
        """The output, of which no gradient is recorded."""
        plan = self.plan
        if plan is not None:
            packed = own.pack(plan.way, plan.shape, weight)
            return native.as_torchs(self._last_step(summands, None)(input, packed=packed), input, weight)
        y = self._torchs(input, weight).contiguous(memory_format=self._form)
        return self._last_step(summands, y)(y) if summands or self.activation else y

    def _torchs(self, input: Tensor, weight: Tensor) -> Tensor:
        if not self._is_slow_volume:
            return self.geometry.convolve(input, weight, None, self.groups)
        return convolve.convolve(Call(input, weight, (), "none", self.geometry, self.groups, ""), input)

    def _last_step(self, summands: list[Summand], y: Tensor | None) -> Any:
        """What adds the field, from the last call where it reads the ``summands`` where they still lie."""
        where = [summand.values.data_ptr() for summand in summands]
        key = (where, y if y is None else y.stride())
        ready = self._ready  # which another thread may replace meanwhile
        if ready is not None and ready[0] == key:
            return ready[1]
        step = self._made(summands, y)
        # One that is live keeps their memory from being given to others.
        self._ready = (key, step) if step.live else None
        return step

    def _made(self, summands: list[Summand], y: Tensor | None) -> own.Convolution | native.Epilogue:
        if y is not None:
            return native.Epilogue(tuple(y.shape[1:]), order_of(y), summands, self.activation)
        plan = ways.known(self.plan)
        return own.Convolution(plan.way, plan.shape, None, plan.out, summands, self.activation)


@final
class _Convolution(torch.autograd.Function):
    """A convolution with its field and activation, as torch differentiates it."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        trained: Trained,
        indices: list[tuple[Tensor, ...]],
        *values: Tensor,
    ) -> Tensor:
        # Of their values the gradients need the shapes alone: who changes them before is free to.
        summands = [Summand(v.detach(), i) for v, i in zip(values, indices, strict=True)]
        y = trained.forward(input, weight, summands)
        ctx.trained, ctx.summands = trained, summands
        ctx.order = memory_order(y)
        ctx.save_for_backward(input, weight, y if trained.activation else None)
        return y

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gy: Tensor
    ) -> tuple[Tensor | None, ...]:
        trained = ctx.trained
        input, weight, y = ctx.saved_tensors
        needed = ctx.needs_input_grad
        call = Call(input, weight, (), "none", trained.geometry, trained.groups, trained.activation)
        wanted = [*needed[:2], *needed[4:]]
        found = training.backward(trained.backward_plan, call, y, gy, ctx.order, ctx.summands, wanted)
        return *found[:2], None, None, *found[2:]


def trained(call: Call) -> Trained | None:
    """What runs ``call`` as one step with its gradients, or None."""
    if call.input.dim() != call.weight.dim() or call.is_small:
        return None
    if training.refusal(call) is None:
        return Trained(call, ways.planned(call))
    plan = training.of_weights(call, call.weight.requires_grad)
    return Trained(call, plan) if plan is not None or training.is_joined(call) else None
