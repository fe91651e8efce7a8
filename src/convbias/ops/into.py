"""A call whose output goes into memory that is there already.

Memory that is fresh is mapped page by page when it is first written, at every call where the output is
large; an output that is used again costs that once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ShapeError
from . import convolve, ways
from .call import Call, recorded
from .checks import check_tensor
from .route import finished, may_write, run, tell


def run_into(call: Call, out: Tensor) -> Tensor:
    """Run ``call`` and leave its output in ``out``, which is returned."""
    _check(call, out)
    if not may_write((*call.tensors, out)):
        return out.copy_(run(call))
    if ways.refusal(call) is None:
        ways.run_into(call, out)
        if not out.is_inference():
            # Where kernels write that are not torch's, it does not count the change.
            torch.autograd.graph.increment_version(out)
        tell(call, out)
        return out
    if convolve.into_refusal(call, out) is not None:
        return out.copy_(run(call))
    # oneDNN adds to what lies in the output's place, so that the field has to be there first.
    field = call.tied[:, None, None] if call.tied is not None else call.field()
    out.zero_() if field is None else out.copy_(field)
    convolve.add_into(call, out)
    tell(call, out, added=True)
    return finished(call.activating, out) if call.activation else out


def _check(call: Call, out: Tensor) -> None:
    check_tensor("out", out)
    if recorded((*call.tensors, out)):
        raise ValueError(
            "out=: no gradient can be recorded of what is written over; call it under torch.no_grad(), "
            "or without out="
        )
    site = call.site
    batch = tuple(call.input.shape[: call.input.dim() - call.geometry.dims - 1])
    wanted = (*batch, *site.field_shape)
    if tuple(out.shape) != wanted:
        raise ShapeError("out", list(out.shape), f"must have the output's shape, {list(wanted)}")
    if out.dtype != call.input.dtype or out.device != call.input.device:
        raise ValueError(
            f"out={out.dtype} on {out.device}: must be of the input's type and device, "
            f"{call.input.dtype} on {call.input.device}"
        )
    if _meets_itself(out):
        raise ValueError(
            f"out= of strides {out.stride()}: some of its numbers share memory; give each a place of its own"
        )
    mine = _place(out)
    if any(_meet(mine, _place(tensor)) for tensor in call.tensors):
        raise ValueError("out=: shares memory with an argument, which would be written over while it is read")


def _meets_itself(out: Tensor) -> bool:
    """Whether two of its numbers may lie at one place."""
    reach = 0
    for stride, size in sorted(zip(out.stride(), out.shape, strict=True)):
        if size > 1 and stride <= reach:
            return out.numel() > 0
        reach += stride * (size - 1)
    return False


def _place(tensor: Tensor) -> range:
    """The addresses that it lies at, with what is between them; none where nobody can tell."""
    start = tensor.untyped_storage().data_ptr()
    if not start or not tensor.numel():
        return range(0)
    reach = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    first = start + tensor.storage_offset() * tensor.element_size()
    return range(first, first + (reach + 1) * tensor.element_size())


def _meet(some: range, others: range) -> bool:
    return bool(some) and bool(others) and some.start < others.stop and others.start < some.stop
