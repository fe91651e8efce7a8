"""Channels of one image taken, scaled and joined again in any order: a 1×1 convolution before another."""

from __future__ import annotations

import operator
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.fx import Node

from ..affine import AffineConv, Field, compose
from ..affine.field import narrowed
from ..errors import FoldRefused
from ..geometry import Geometry
from .elementwise import read
from .evaluation import ROUNDING, evaluate, random
from .graph import Network
from .laws import Front, Taken, parts
from .sizes import Sizes, are_free, ensure
from .spelling import SPLITS

aten = torch.ops.aten
# What takes channels out of an image, and puts them together: all of it moves numbers and changes none.
PARTS = (*SPLITS, aten.unbind.int)
JOINS = (aten.cat.default, aten.stack.default)
MOVES: frozenset[Any] = frozenset(
    (
        *(aten.slice.Tensor, aten.select.int, aten.index.Tensor, aten.index_select.default, *PARTS),
        *(*JOINS, aten.flip.default, aten.roll.default, aten.expand.default, aten.repeat.default),
    )
)
SHAPES: frozenset[Any] = frozenset(
    (
        *(aten.unsqueeze.default, aten.squeeze.dim, aten.view.default, aten._unsafe_view.default),
        *(aten.permute.default, aten.transpose.int, aten.clone.default, aten.alias.default),
    )
)
LAW = "picked channels"


@final
class PickedChannels(Front):
    """Channels taken out of one image, each scaled and shifted, and joined are a 1×1 convolution of it."""

    name = LAW
    moves = True

    def begins(self, network: Network, node: Node) -> bool:
        return len(network.shape(node)) > 2 and _moves(network, node) and _region(network, node) is not None

    def taken_up(self, network: Network, node: Node, conv: AffineConv) -> Taken:
        image, nodes = cast(tuple[Node, list[Node]], _region(network, node))
        dtype = node.meta["val"].dtype
        if not dtype.is_floating_point and any(read(one, network) for one in nodes):
            raise FoldRefused(self.name, f"it computes in {dtype}, which may overflow")
        pick = _pick(network, image, nodes)
        return Taken(compose(pick, conv, network.space(image)), image, tuple(nodes))


def _moves(network: Network, node: Node) -> bool:
    if node in network.constants or node.op != "call_function":
        return False
    return node.target in MOVES or node.target in SHAPES or is_part(node)


def is_part(node: Node) -> bool:
    """Whether the node is one of the images that another was split into."""
    return node.target is operator.getitem and cast(Node, node.args[0]).target in PARTS


def _region(network: Network, node: Node) -> tuple[Node, list[Node]] | None:
    """The image that all channels of ``node`` come from, as near as can be, and the nodes that take them."""
    order = list(node.graph.nodes).index
    nodes, sources = list[Node](), {node}
    while len(sources) > 1 or not nodes or _places(*sources) != _places(node):
        last = max(sources, key=order)
        affine = read(last, network) is not None
        # Constant channels beside others are another law's.
        beside = last.target in JOINS and any(part in network.constants for part in last.all_input_nodes)
        if beside or not (affine or _moves(network, last)):
            return None
        taken = (*parts(last), last) if affine else (last,)
        nodes = [*taken, *nodes]
        inputs = {source for one in taken for source in one.all_input_nodes} - {*nodes, *network.constants}
        sources = (sources | {source for source in inputs if not _is_size(source)}) - {*nodes}
        if not sources:
            return None
    return sources.pop(), nodes


def _is_size(node: Node) -> bool:
    return not isinstance(node.meta["val"], (Tensor, tuple, list))


def _places(node: Node) -> list[str]:
    """The sizes of the batch and of space; those that depend on the input as what they are made of."""
    sizes = [str(size) for size in getattr(node.meta["val"], "shape", ())]
    return sizes[:1] + sizes[2:]


def _pick(network: Network, image: Node, nodes: list[Node]) -> AffineConv:
    """What the nodes do to ``image``: seen by what becomes of 0, of 1 and of the channels' own numbers."""
    shape, end = network.hint(image), nodes[-1]
    dims, channels = len(shape) - 2, shape[1]

    def made(value: Tensor, sizes: Sizes | None = None) -> Tensor:
        return evaluate(network, nodes, {image: value}, sizes=sizes)[end]

    numbers = torch.arange(1, channels + 1, dtype=torch.float64).reshape(-1, *(1,) * dims)
    nothing = made(torch.zeros(shape).double())
    scale = (made(torch.ones(shape).double()) - nothing)[0].flatten(1)[:, 0]
    number = (made(numbers.expand(shape)) - nothing)[0].flatten(1)[:, 0] / scale
    taken = (torch.where(scale == 0, 1.0, number).round().long() - 1).clamp(0, channels - 1)
    weight = torch.zeros(len(scale), channels, dtype=torch.float64)
    weight[range(len(scale)), taken] = scale
    shift = Field(maps=(narrowed(nothing[0]),))
    pick = AffineConv(weight.reshape(*weight.shape, *(1,) * dims), Geometry.of(dims, 1), 1, shift)

    def holds(sizes: Sizes | None = None) -> bool:
        x = random(network, image, sizes)
        expected, found = made(x, sizes), pick(x)
        alike = expected.shape == found.shape
        return alike and bool((expected - found).abs().max() <= ROUNDING * expected.abs().max())

    if not holds():
        raise FoldRefused(LAW, "places or images change among each other")
    if are_free(nodes):
        ensure(LAW, network.other_sizes, holds)
    return pick
