"""The convolution alone: torch's way, or around it where that is slow.

``torch.ops.mkldnn`` reaches oneDNN's convolutions without what ATen does before and after. It is private, so
it is tried out before it is relied upon.
"""

from __future__ import annotations

import functools
import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..geometry import Geometry
from .activations import CHEAP, IN_PLACE
from .call import Call, Packed, recorded
from .choice import SMALL, chosen
from .layout import channels_last, form_of, is_channels_last
from .native import as_torchs

NAME = "onednn"
# So many weights take oneDNN longer to order than its operator for ordered ones takes to be called.
HEAVY = 3 * 2**16
# And as many times more of them than numbers of input and output take longer than to turn the output round.
_TURNED = 4


def convolve(call: Call, input: Tensor) -> Tensor:
    """``call``'s convolution of ``input`` by oneDNN's own operator, which must not have refused it."""
    return as_torchs(_onednn(call, input), input, call.weight)


def refusal(call: Call) -> str | None:
    """Why oneDNN's own operator does not convolve ``call``, or None."""
    if call.packed is None and not (call.geometry.dims == 3 and len(call.input) == 1):
        return "torch's convolution is as fast, but for 3D images one by one and packed weights"
    return _not_now(call)


def fused(call: Call, input: Tensor) -> Tensor:
    """Convolution and field in one go, which must not have been refused."""
    return _added(call, input, call.bias[0][None])


def fused_refusal(call: Call) -> str | None:
    """Why oneDNN does not add the field of ``call`` while it convolves, or None."""
    if call.input.numel() < SMALL:
        return "the image is small"
    if call.tying != "untied":
        return "it takes an untied field"
    if call.geometry.dims != 2 or call.input.dim() != 4 or call.input.shape[0] != 1:
        return "it takes images one by one"
    if 1 in call.bias[0].shape:
        return "the field shares an axis"
    field = call.bias[0][None]
    if not (is_channels_last(call.input) and field.is_contiguous(memory_format=channels_last(field))):
        return "input and field do not both lie in channels_last"
    return _not_now(call)


def add_into(call: Call, out: Tensor) -> None:
    """Add the convolution of ``call`` to ``out``."""
    input, where = _input_and_where(call, call.input)
    torch.ops.mkldnn._convolution_pointwise_.binary(out, input, _weight(call), None, *where, *_ADDING)


def into_refusal(call: Call, out: Tensor) -> str | None:
    """Why oneDNN does not add the convolution of ``call`` to ``out``, or None."""
    if call.geometry.dims != 2 or call.input.dim() != 4:
        return "it takes batches of images"
    if not is_channels_last(call.input) or not is_channels_last(out):
        return "input and output do not both lie in channels_last"
    return _not_now(call)


def _not_now(call: Call) -> str | None:
    if call.packed is not None and call.packed.way != NAME:
        return f"the weight is packed for {call.packed.way}"
    if call.is_mistyped:
        return "the bias is of another type"
    return "a gradient is recorded" if recorded(call.tensors) else absence(call)


def absence(call: Call) -> str | None:
    """Why oneDNN's own operators cannot be used for ``call``, whether its gradient is recorded or not."""
    if chosen() == "aten":
        return "the backend 'aten' is chosen"
    return _unfit(call.input, call.weight, call.geometry)


def _unfit(input: Tensor, weight: Tensor, geometry: Geometry) -> str | None:
    if geometry.transposed:
        return "it is transposed"
    if input.device.type != "cpu" or weight.dtype != torch.float32 or input.dtype != torch.float32:
        return "it is for float32 on the CPU"
    if not input.numel() or not weight.numel() or min(geometry.output_size(input.shape[2:])) < 1:
        return "there is nothing to convolve"
    return missing()


def worth_packing(input: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether oneDNN's own order of the numbers of ``weight`` is worth its memory for inputs like ``input``.

    It reorders the weight at every call. With one that is reordered, it leaves its output in channels_last.
    """
    if geometry.dims != 2 or input.dim() != 4 or chosen() == "aten":
        return False
    if weight.numel() < HEAVY or _unfit(input, weight, geometry) is not None:
        return False
    outputs = len(input) * weight.shape[0] * math.prod(geometry.output_size(input.shape[2:]))
    last = form_of(input, weight) is torch.channels_last
    return last or weight.numel() > _TURNED * (input.numel() + outputs)


def pack(input: Tensor, weight: Tensor, geometry: Geometry, groups: int) -> Packed:
    """``weight`` in the order that oneDNN wants for inputs like ``input``."""
    given, padding = geometry.padded(input)
    reorder = torch.ops.mkldnn._reorder_convolution_weight
    where = (padding, geometry.stride, geometry.dilation, groups, list(given.shape))
    return Packed(NAME, reorder(weight.detach(), *where))


def ready(call: Call, packed: Packed) -> Packed:
    """``packed`` by :func:`pack`, and the whole of ``call`` where little is left to do behind oneDNN."""
    call = call._replace(packed=packed)
    if call.activation not in ("", *CHEAP) or (call.fielded and fused_refusal(call) is not None):
        return packed
    return packed._replace(run=partial(_run, packed))


def _run(packed: Packed, call: Call, input: Tensor, residual: Tensor | None) -> Tensor:
    call = call._replace(packed=packed)
    added = call.bias[0][None] if call.fielded else residual
    y = _onednn(call, input) if added is None else _added(call, input, added)
    y = as_torchs(y, input, call.weight)
    if residual is not None and call.fielded:
        y.add_(residual)
    return IN_PLACE[call.activation](y) if call.activation else y


# Its own relu, which could follow at once, makes a NaN 0.
_ADDING = ("add", 1.0, None, [], "")


def _added(call: Call, input: Tensor, other: Tensor) -> Tensor:
    """The convolution of ``input``, with a tied bias, and ``other`` added."""
    input, where = _input_and_where(call, input)
    form = channels_last(input) if is_channels_last(input) else torch.contiguous_format
    other = other.contiguous(memory_format=form)
    binary = torch.ops.mkldnn._convolution_pointwise.binary
    return binary(input, other, _weight(call), call.tied, *where, *_ADDING)


def _onednn(call: Call, input: Tensor) -> Tensor:
    input, where = _input_and_where(call, input)
    return torch.ops.mkldnn._convolution_pointwise(input, _weight(call), call.tied, *where, "none", [], "")


def _weight(call: Call) -> Tensor:
    return call.weight if call.packed is None else call.packed.weight


def _input_and_where(call: Call, input: Tensor) -> tuple[Tensor, tuple[object, ...]]:
    """The input as oneDNN's operators take it, and padding, stride, dilation and groups in their order."""
    input, padding = call.geometry.padded(input)
    return input, (padding, call.geometry.stride, call.geometry.dilation, call.groups)


@functools.cache
def missing() -> str | None:
    """Why oneDNN's operators cannot be used, or None: they are tried on two small convolutions."""
    try:
        # Whatever torch's defaults are.
        ones = partial(torch.ones, dtype=torch.float32, device="cpu")
        for run, sides in ((F.conv2d, (5, 6)), (F.conv3d, (4, 5, 6))):
            geometry = Geometry.of(len(sides), 3, padding=1)
            x, w = ones(1, 2, *sides).cumsum(-1), ones(3, 2, *geometry.kernel_size).cumsum(-1).cumsum(0)
            call = Call(x, w, [], "none", geometry, 1, "")
            packed = [None, pack(x, w, geometry, 1)] if len(sides) == 2 else [None]
            wanted = run(x, w, None, 1, 1)
            if any(not torch.allclose(_onednn(call._replace(packed=p), x), wanted) for p in packed):
                return "torch's private oneDNN operators give other numbers in this version"
    except (AttributeError, RuntimeError, TypeError, NotImplementedError) as error:
        return f"this torch lacks the private oneDNN operators: {str(error).splitlines()[0]}"
    return None
