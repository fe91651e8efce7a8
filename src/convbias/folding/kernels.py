"""What convbias's kernels are faster for, in a network that is folded for them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from ..affine import AffineConv
from ..ops import ways
from ..ops.call import small
from ..ops.convolve import HEAVY
from ..ops.layout import is_channels_last
from .graph import Network
from .laws import input_of


def pays(network: Network, node: Node) -> bool:
    """Whether a layer of convbias's is faster than torch's there, if its bias is no field."""
    conv, given = network.convolutions[node], network.hint(input_of(node))
    dims, single = conv.geometry.dims, node.meta["val"].dtype == torch.float32
    if conv.geometry.transposed or not single or small(given, tuple(conv.weight.shape), conv.groups):
        return False
    # Of 3D images, torch takes its time for one by itself.
    if dims == 3 and given[0] == 1:
        return True
    # torch orders the numbers of a weight anew at every call.
    heavy = dims == 2 and _lies_last(network) and conv.weight.numel() >= HEAVY
    return heavy or own_way(network, conv, given) is not None


def own_way(network: Network, conv: AffineConv, given: tuple[int, ...]) -> str | None:
    """Which own convolution runs ``conv``, with a field or none, on inputs of shape ``given``; or None."""
    if conv.geometry.transposed or small(given, tuple(conv.weight.shape), conv.groups):
        return None
    last = conv.geometry.dims > 1 and _lies_last(network)
    where = (given, conv.out_channels, conv.geometry, conv.groups, last)
    plan = ways.plan_for(*where, winograd=True, by_avx2=ways.by_avx2())
    return plan.way if plan else None


def _lies_last(network: Network) -> bool:
    """Whether images run through the network with their channels last: a 1×1 kernel cannot tell."""
    given = [node.meta.get("val") for node in network.module.graph.nodes if node.op == "placeholder"]
    known = [x for x in given if isinstance(x, Tensor) and all(isinstance(n, int) for n in x.shape)]
    lying = [x for x in (*known, *network.constants.values()) if x.dim() in (4, 5)]
    return any(is_channels_last(x) for x in lying)
