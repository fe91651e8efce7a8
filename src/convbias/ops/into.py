"""A call whose output goes into memory that is there already.

Memory that is fresh is mapped page by page when it is first written, at every call where the output is
large; an output that is used again costs that once.
"""

from __future__ import annotations

from torch import Tensor

from ..errors import ShapeError
from . import convolve, ways
from .call import Call, recorded
from .route import finished, may_write, run


def run_into(call: Call, out: Tensor) -> Tensor:
    """Run ``call`` and leave its output in ``out``, which is returned."""
    _check(call, out)
    if not may_write((*call.tensors, out)):
        return out.copy_(run(call))
    if ways.refusal(call) is None:
        return ways.run_into(call, out)
    if convolve.into_refusal(call, out) is not None:
        return out.copy_(run(call))
    # oneDNN adds to what lies in the output's place, so that the field has to be there first.
    field = call.tied[:, None, None] if call.tied is not None else call.field()
    out.zero_() if field is None else out.copy_(field)
    convolve.add_into(call, out)
    return finished(call.activating, out) if call.activation else out


def _check(call: Call, out: Tensor) -> None:
    if not isinstance(out, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"out={out!r}: must be a tensor, not {type(out).__name__}")
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
    mine = out.untyped_storage().data_ptr()
    if mine and any(tensor.untyped_storage().data_ptr() == mine for tensor in call.tensors):
        raise ValueError("out=: shares memory with an argument, which would be written over while it is read")
