"""Constant channels beside others: joined to them, or written with them into one tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.fx import Node

from ..affine import constant_channels
from ..errors import FoldRefused
from .constants import depends
from .convolutions import given
from .graph import Network
from .laws import Law, Operation, Refused, Site, one_of_batch, read_elsewhere

aten = torch.ops.aten
WRITES = (aten.slice_scatter.default, aten.select_scatter.default)
LAW = "constant channels"


@final
class Piece(NamedTuple):
    """Some channels: a node's, or constant ones, (channels, *space)."""

    value: Node | Tensor
    channels: int


@final
class ConstantChannels(Law):
    """Constant channels beside the input's own leave the weight and become a bias."""

    name = LAW

    def find(self, network: Network) -> Iterator[Site | Refused]:
        for node in network.nodes:
            if _joins(network, node) and any(user in network.convolutions for user in node.users):
                yield from self._at(network, node)

    def _at(self, network: Network, node: Node) -> Iterator[Site | Refused]:
        try:
            pieces, nodes = _pieces(network, node)
        except FoldRefused as refused:
            yield Refused(LAW, network.label(node), refused.reason)
            return
        rest = [piece.value for piece in pieces if isinstance(piece.value, Node)]
        if 0 < len(rest) < len(pieces):
            yield self.tried(network, node, lambda: self._site(network, pieces, rest, nodes))
        for value in rest:
            if not depends(value):
                reason = f"{network.label(value)} is constant, but its size depends on the input"
                yield Refused(LAW, network.label(node), reason)

    def _site(self, network: Network, pieces: list[Piece], rest: list[Node], nodes: list[Node]) -> Site:
        node = nodes[-1]
        others = [network.label(user) for user in node.users if user not in network.convolutions]
        others += [network.label(user) for user in read_elsewhere(network, nodes[:-1], nodes)]
        if others:
            raise FoldRefused(LAW, f"the concat is also used by {', '.join(others)}: nothing would be saved")
        channels: dict[int, Tensor] = {}
        first = 0
        for value, size in pieces:
            if isinstance(value, Tensor):
                channels |= {first + i: value[i].double() for i in range(size)}
            first += size
        source, rewritten = rest[0], dict[Node, Operation]()
        if len(rest) > 1:
            source, kept = node, node.meta["val"].narrow(1, 0, first - len(channels))
            rewritten = {node: Operation(aten.cat.default, (rest, 1), kept)}
        becomes = {
            user: (constant_channels(network.convolutions[user], channels), source) for user in node.users
        }
        gone = tuple(one for one in nodes if one not in rewritten)
        return Site(LAW, gone, becomes, {}, rewritten)


def _joins(network: Network, node: Node) -> bool:
    """Whether the node puts channels together: along the second axis of (N, C, *space)."""
    rank = len(network.shape(node))
    joins = node.target in (aten.cat.default, *WRITES) and node not in network.constants and rank > 2
    return joins and given(node).get("dim", 0) % rank == 1


def _pieces(network: Network, node: Node) -> tuple[list[Piece], list[Node]]:
    """The channels of ``node`` in their order, and the nodes that put them together."""
    if not _joins(network, node):
        return [_piece(network, node)], []
    words = given(node)
    if node.target is aten.cat.default:
        return [_piece(network, part) for part in words["tensors"]], [node]
    under, nodes = _pieces(network, words["input" if "input" in words else "self"])
    total = sum(piece.channels for piece in under)
    first, last = _range(words, total)
    one = node.target is aten.select_scatter.default
    return [*_cut(under, 0, first), _piece(network, words["src"], one), *_cut(under, last, total)], [
        *nodes,
        node,
    ]


def _piece(network: Network, node: Node, one: bool = False) -> Piece:
    """The channels of ``node``, which lacks their axis where it is ``one``."""
    value, shape = network.constants.get(node), network.shape(node)
    if value is not None:
        image = one_of_batch(LAW, value)
        return Piece(image[None] if one else image, 1 if one else len(image))
    if one:
        raise FoldRefused(LAW, f"{network.label(node)} is written into a channel")
    if shape[1] is None:
        raise FoldRefused(LAW, "how many channels there are depends on the input")
    return Piece(node, shape[1])


def _range(words: dict[str, Any], total: int) -> tuple[int, int]:
    """The channels that are written, from the first to behind the last."""
    if "index" in words:
        first = words["index"] % total
        return first, first + 1
    first, last = words.get("start") or 0, words.get("end")
    if words.get("step", 1) != 1 or not isinstance(first, int) or not isinstance(last, int | None):
        raise FoldRefused(LAW, "the channels that are written are not one after the other")
    return slice(first, last).indices(total)[:2]


def _cut(pieces: list[Piece], first: int, last: int) -> Iterator[Piece]:
    """The channels from ``first`` to before ``last``."""
    start = 0
    for value, channels in pieces:
        a, b = max(first - start, 0), min(last - start, channels)
        start += channels
        if a >= b:
            continue
        if b - a < channels and isinstance(value, Node):
            raise FoldRefused(LAW, f"a part of {value.name} is written over")
        yield Piece(value[a:b] if isinstance(value, Tensor) else value, b - a)
