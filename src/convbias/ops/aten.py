"""The kernels made of torch's own operators."""

from __future__ import annotations

from torch import Tensor

from .activations import ACTIVATIONS, IN_PLACE
from .call import Call


def composite(call: Call) -> Tensor:
    """A convolution, an addition, an activation: differentiable and transformable in every way."""
    y = call.geometry.convolve(call.input, call.weight, call.tied, call.groups)
    field = call.field()
    if field is not None:
        # Under autocast y is narrower than the parameters and has to stay so.
        y = y + field.to(y.dtype)
    return ACTIVATIONS[call.activation](y) if call.activation else y


def in_place(call: Call) -> Tensor:
    """The same with the bias and the activation written onto the convolution's fresh output."""
    y = call.geometry.convolve(call.input, call.weight, call.tied, call.groups)
    field = call.field()
    if field is not None:
        y.add_(field)
    if not call.activation:
        return y
    return IN_PLACE.get(call.activation, ACTIVATIONS[call.activation])(y)
