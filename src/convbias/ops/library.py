"""The registration of ``torch.ops.convbias.*``.

The op is a composite one: torch differentiates, batches and traces through its body, which is the only
registration under which gradients, forward mode, functorch, export and autocast all work. Where nobody but
torch.compile looks into it, there is one node inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..geometry import Geometry
from . import compiled
from .call import Call
from .route import run

_LIBRARY = torch.library.Library("convbias", "DEF")

_LIBRARY.define(
    "convolution(Tensor input, Tensor weight, Tensor[] bias, str tying, SymInt[] stride, "
    "SymInt[] padding, SymInt[] dilation, str padding_mode, bool transposed, "
    "SymInt[] output_padding, int groups, str activation) -> Tensor"
)


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Sequence[Tensor],
    tying: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    padding_mode: str,
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    activation: str,
) -> Tensor:
    """The op's body. ``padding`` is before, after, before, after, …, one pair per axis."""
    geometry = Geometry(
        kernel_size=tuple(weight.shape[2:]),
        stride=tuple(stride),
        pads=tuple(zip(padding[::2], padding[1::2], strict=True)),
        dilation=tuple(dilation),
        padding_mode=padding_mode,
        transposed=transposed,
        output_padding=tuple(output_padding),
    )
    call = Call(input, weight, bias, tying, geometry, groups, activation)
    return run(call) if compiled.refusal(call) else compiled.node(call)


_LIBRARY.impl("convolution", convolution, "CompositeImplicitAutograd")
# Composite ops of torch.library have no batching rule; without this, vmap raises where no gradient is taken.
_LIBRARY.impl("convolution", convolution, "FuncTorchBatchedDecomposition")
compiled.register(_LIBRARY)
