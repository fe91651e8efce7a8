"""The kernels made of torch's own operators."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .activations import ACTIVATIONS, IN_PLACE
from .call import Call


def composite(call: Call) -> Tensor:
    """A convolution, an addition, an activation: differentiable and transformable in every way."""
    # Under autocast y is narrower than the parameters and has to stay so.
    return _steps(call, lambda y, field: y + field.to(y.dtype))


def flat(call: Call) -> Tensor:
    """The same with the field added over rows of a channels_last output, one row for each sample.

    The field's gradient is a sum over the batch, and torch sums rows that lie one after another in memory
    many times faster than permuted axes.
    """
    return _steps(call, _add_to_rows)


def _steps(call: Call, add: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    y = call.geometry.convolve(call.input, call.weight, call.tied, call.groups)
    field = call.field()
    if field is not None:
        y = add(y, field)
    return ACTIVATIONS[call.activation](y) if call.activation else y


def _add_to_rows(y: Tensor, field: Tensor) -> Tensor:
    """``y`` (N, C, *out) plus ``field``, each of whose axes is full or 1."""
    rows = y.movedim(1, -1)
    if y.is_contiguous() or not rows.is_contiguous():
        return y + field
    row = field.expand(y.shape[1:]).movedim(0, -1).flatten()
    return (rows.flatten(1) + row).view(rows.shape).movedim(-1, 1)


def in_place(call: Call) -> Tensor:
    """The same with the bias and the activation written onto the convolution's fresh output."""
    y = call.geometry.convolve(call.input, call.weight, call.tied, call.groups)
    field = call.field()
    if field is not None:
        y.add_(field)
    if not call.activation:
        return y
    return IN_PLACE.get(call.activation, ACTIVATIONS[call.activation])(y)
