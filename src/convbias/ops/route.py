"""Which kernel runs a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import aten
from .call import Call


def run(call: Call) -> Tensor:
    """Run ``call`` by the first kernel, fastest first, that does not refuse it; the last refuses nothing."""
    kernel = next(kernel for kernel, refusal in KERNELS.values() if refusal(call) is None)
    return kernel(call)


def may_write(tensors: Sequence[Tensor]) -> bool:
    """Whether a call on ``tensors`` may write its output in place, and keep what it computes."""
    return _refusal(tensors) is None


def _no_writing(call: Call) -> str | None:
    return _refusal((call.input, call.weight, *call.bias))


def _no_rows(call: Call) -> str | None:
    """Why the field is not to be added over rows of the output, one for each sample."""
    followed = _bypass((call.input, call.weight, *call.bias))
    if followed is not None:
        return followed
    if call.tying in ("none", "tied"):
        return "there is no field to add"
    if call.input.dim() != call.weight.dim() or len(call.input) < 2:
        return "there is no batch to sum a gradient over"
    return None


def _refusal(tensors: Sequence[Tensor]) -> str | None:
    """Why the output of a call on ``tensors`` may not be written in place, or None if it may."""
    followed = _bypass(tensors)
    if followed is None and torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return "a gradient is recorded"
    return followed


def _bypass(tensors: Sequence[Tensor]) -> str | None:
    """Who else follows a call on ``tensors``, and must see each of its steps, or None."""
    if torch.compiler.is_compiling():
        return "torch.compile or torch.export is tracing"
    if any(type(t) not in (Tensor, torch.nn.Parameter) for t in tensors):
        return "a tensor subclass takes part"
    device = tensors[0].device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return "autocast is on"
    return _transform()


def _transform() -> str | None:
    """The active transform that a kernel must not bypass. torch has no public question for the first two."""
    try:
        if torch._C._are_functorch_transforms_active():  # pyright: ignore[reportPrivateUsage]
            return "a functorch transform is active"
        if forward_ad._current_level >= 0:  # pyright: ignore[reportPrivateUsage]
            return "forward-mode differentiation is active"
    except AttributeError:
        return "this torch cannot say which transforms are active"
    if torch.onnx.is_in_onnx_export():
        return "an ONNX export is running"
    return None


def _never(call: Call) -> str | None:
    return None


KERNELS: dict[str, tuple[Callable[[Call], Tensor], Callable[[Call], str | None]]] = {
    "in_place": (aten.in_place, _no_writing),
    "flat": (aten.flat, _no_rows),
    "composite": (aten.composite, _never),
}
