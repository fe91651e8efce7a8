"""The kernels made of torch's own operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from ..tying.base import Summand
from .activations import ACTIVATIONS, IN_PLACE
from .call import Call
from .choice import SMALL
from .layout import Order, rows, unflattened

_ops = torch.ops.aten

# gy · act′ from what is saved: the output, or what went into the activations of KEEPING.
_HAND_BACK: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda gy, y: _ops.threshold_backward(gy, y, 0),
    "relu6": lambda gy, y: _ops.hardtanh_backward(gy, y, 0, 6),
    "leaky_relu": lambda gy, y: _ops.leaky_relu_backward(gy, y, 0.01, True),
    "sigmoid": lambda gy, y: _ops.sigmoid_backward(gy, y),
    "tanh": lambda gy, y: _ops.tanh_backward(gy, y),
    "gelu": lambda gy, z: _ops.gelu_backward(gy, z),
    "gelu_tanh": lambda gy, z: _ops.gelu_backward(gy, z, approximate="tanh"),
    "silu": lambda gy, z: _silu_backward(gy, z) if torch.is_grad_enabled() else _ops.silu_backward(gy, z),
    "hardswish": lambda gy, z: _ops.hardswish_backward(gy, z),
}


def _silu_backward(gy: Tensor, z: Tensor) -> Tensor:
    """torch's own has no derivative."""
    gate = torch.sigmoid(z)
    return gy * gate * (1 + z * (1 - gate))


def composite(call: Call) -> Tensor:
    """A convolution, an addition, an activation: differentiable and transformable in every way."""
    return steps(call, call.convolve(call.input))


def steps(call: Call, y: Tensor) -> Tensor:
    """The addition and the activation, each with a result of its own."""
    field = call.field()
    if field is not None:
        y = y + as_output(field, y)
    return ACTIVATIONS[call.activation](y) if call.activation else y


def as_output(field: Tensor, y: Tensor) -> Tensor:
    """``field`` in the numbers of ``y``, which under autocast is narrower than parameters and has to stay so.

    ValueError where those could not hold it.
    """
    if not torch.can_cast(field.dtype, y.dtype):
        raise ValueError(f"bias of {field.dtype}: must be of the output's kind of numbers, {y.dtype}")
    return field.to(y.dtype)


def in_place(field: Tensor | None, activation: str, y: Tensor) -> Tensor:
    """The same, written onto ``y``."""
    if field is not None:
        y.add_(_of_one_image(field) if y.requires_grad and len(y) == 1 and y.numel() >= SMALL else field)
    return IN_PLACE[activation](y) if activation else y


def _of_one_image(field: Tensor) -> Tensor:
    """``field`` for a batch of one: its gradient is the output's, copied faster than torch would sum it."""
    alone = field[None]
    if alone.requires_grad:
        # Not the output's itself: torch would add to it what the next step brings, and others read it.
        alone.register_hook(torch.clone)
    return alone


@final
class Epilogue:
    """``z ↦ act(z + field)``, written onto ``z``, or beside it where ``z + field`` is to be kept."""

    def __init__(
        self, sample: tuple[int, ...], order: Order, summands: list[Summand], activation: str
    ) -> None:
        self._order, self._summands, self._activation = order, summands, activation

    def __call__(self, z: Tensor, keep: bool = False) -> Tensor:
        for summand in self._summands:
            _add(z, self._order, summand.field().to(z.dtype))
        if not self._activation:
            return z
        return (ACTIVATIONS if keep else IN_PLACE)[self._activation](z)


def _add(z: Tensor, order: Order, field: Tensor) -> None:
    if len(z) < 2 or order[-1] or field.numel() < z.numel() // len(z):
        z.add_(field)
    else:
        # Rows that lie alike in memory are added several times faster than permuted axes.
        rows(z, order).add_(rows(field[None], order))


def backward(
    saved: Tensor | None, gy: Tensor, order: Order, activation: str, summed: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradient of ``z`` and, where it is to be ``summed``, that over the batch: of the field."""
    gz: Any = _HAND_BACK[activation](gy, saved) if activation and saved is not None else gy
    # Rows that lie one after another are summed many times faster than permuted axes.
    sums = unflattened(rows(gz, order).sum(0), order, tuple(gz.shape[1:])) if summed else None
    return gz, sums


def reduce(sums: Tensor, order: Order, summand: Summand) -> Tensor:
    """The gradient of a summand's values from that of the field."""
    for axis, index in enumerate(summand.index, start=1):
        shape = list(sums.shape)
        shape[axis] = summand.values.shape[axis]
        sums = sums.new_zeros(shape).index_add(axis, index.to(sums.device), sums)
    return sums.sum_to_size(summand.values.shape)
