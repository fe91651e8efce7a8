"""Who else follows a call and must see each of its steps: tracers, transforms, modes, other tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, is_autocast_enabled
from torch.autograd import forward_ad
from torch.compiler import is_compiling

_PLAIN = frozenset((Tensor, torch.nn.Parameter))


# torch has no public question for these. Looked up once: before each convolution that takes its time, in
# caches that the last one has filled.
_modes = getattr(torch._C, "_len_torch_dispatch_stack", None)
_transforms = getattr(torch._C, "_are_functorch_transforms_active", None)
_is_tracing = getattr(torch._C, "_is_tracing", None)
_is_batched = getattr(getattr(torch._C, "_functorch", None), "is_legacy_batchedtensor", None)
_has_levels = hasattr(forward_ad, "_current_level")


def follower(tensors: Sequence[Tensor]) -> str | None:
    """Who follows a call on ``tensors``, or None."""
    if is_compiling():
        return "torch.compile or torch.export is tracing"
    on_cpu = type(tensors[0]) in _PLAIN and tensors[0].is_cpu
    for tensor in tensors:
        if type(tensor) not in _PLAIN:
            return "a tensor subclass takes part"
        if tensor.is_cpu != on_cpu:
            return "tensors lie on several devices"
        if tensor.is_neg():
            return "a tensor has its sign turned when it is read"
    device = "cpu" if on_cpu else tensors[0].device.type
    if (on_cpu or torch.amp.is_autocast_available(device)) and is_autocast_enabled(device):
        return "autocast is on"
    if _modes is None:
        return "this torch cannot say which modes are active"
    return "a mode sees every operator" if _modes() else transform()


def differentiable(gradient: Tensor) -> bool:
    """Whether a way back must be of torch's operators: it is followed too, or for many gradients at once."""
    return torch.is_grad_enabled() or follower((gradient,)) is not None or batched(gradient)


def batched(gradient: Tensor) -> bool:
    """Whether it may be many gradients that look like one, whose layout cannot be asked for."""
    return transform() is not None or _is_batched is None or _is_batched(gradient)


def traced() -> bool:
    """Whether torch.jit may be tracing, to which sizes are tensors."""
    return _is_tracing is None or _is_tracing()


def transform() -> str | None:
    """The active transform that a kernel must not bypass."""
    if _transforms is None or _is_tracing is None or not _has_levels:
        return "this torch cannot say which transforms are active"
    if _transforms():
        return "a functorch transform is active"
    if forward_ad._current_level >= 0:  # pyright: ignore[reportPrivateUsage]
        return "forward-mode differentiation is active"
    return "torch.jit or an ONNX export is tracing" if traced() else None
