"""Constant borders around an image, padded at once or written piece by piece."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node

from ..errors import FoldRefused
from .convolutions import given
from .evaluation import evaluate, random
from .graph import Network
from .sizes import Sizes, are_free, ensure

aten = torch.ops.aten
PADS = (aten.pad.default, aten.constant_pad_nd.default)
# What writes onto a part of a tensor, without mutation.
WRITES = (aten.slice_scatter.default, aten.select_scatter.default)
WITHIN = (
    *(aten.slice.Tensor, aten.select.int, aten.fill.Tensor, aten.fill.Scalar, aten.copy.default),
    *(aten.expand.default, aten.clone.default),
)
LAW = "constant padding"


def border(network: Network, node: Node) -> tuple[Node, tuple[tuple[int, int], ...], Tensor, list[Node]]:
    """The image, the sizes of the border, its value ``(C,)``, and all nodes that make it.

    Raises FoldRefused for a border that is not one number for each channel, or leaves no image as it was.
    """
    chain = _chain(network, node)
    starts = [one for one in chain if one.target in PADS]
    if len(starts) != 1:
        raise FoldRefused(LAW, "what is written onto is no padding of one image")
    (start,) = starts
    x, pairs = cast(Node, start.args[0]), _pairs(start)
    dims = len(network.shape(x)) - 2
    if len(pairs) > dims:
        raise FoldRefused(LAW, "it pads channels or the batch as well")
    if _mode(start) != "constant":
        raise FoldRefused(LAW, f"it pads with {_mode(start)}")
    around = tuple(reversed([*pairs, *[(0, 0)] * (dims - len(pairs))]))
    if not all(isinstance(side, int) for pair in pairs for side in pair):
        raise FoldRefused(LAW, "how much it pads depends on the input")
    if any(side < 0 for pair in around for side in pair):
        raise FoldRefused(LAW, f"{around} crops the image")
    for one in chain:
        if any(_depends(network, source) for source in one.all_input_nodes if source not in (x, *chain)):
            raise FoldRefused(LAW, "what is written depends on the input")
    value = _value(network, x, around, chain)

    def holds(sizes: Sizes) -> bool:
        return torch.equal(_value(network, x, around, chain, sizes), value)

    if are_free(chain):
        ensure(LAW, network.other_sizes, holds)
    return x, around, value, chain


def _depends(network: Network, node: Node) -> bool:
    """Whether the node is another image than the one that is padded, and no size."""
    return node not in network.constants and isinstance(node.meta["val"], Tensor)


def _value(
    network: Network,
    x: Node,
    around: Sequence[tuple[int, int]],
    chain: Sequence[Node],
    at_sizes: Sizes | None = None,
) -> Tensor:
    """The one number that the border has for each channel, ``(C,)``."""
    image = random(network, x, at_sizes)
    made: Tensor = evaluate(network, chain, {x: image}, sizes=at_sizes)[chain[-1]]
    sizes = zip(around, made.shape[2:], strict=True)
    inside = (slice(None), slice(None), *(slice(a, size - b) for (a, b), size in sizes))
    if not torch.equal(made[inside], image):
        raise FoldRefused(LAW, "what is written reaches into the image")
    outside = torch.ones(made.shape[2:], dtype=torch.bool)
    outside[inside[2:]] = False
    values = made[:, :, outside]
    if not values.shape[2]:
        return torch.zeros(image.shape[1]).double()
    if not bool((values == values[:1, :, :1]).all()):
        raise FoldRefused(LAW, "the border is not one number for each channel")
    return values[0, :, 0]


def crops(network: Network, node: Node) -> bool:
    """Whether the node takes a part of the image's places, and adds none."""
    if node.target in PADS:
        flat = [side for pair in _pairs(node) for side in pair]
        if not all(isinstance(side, int) for side in flat):
            return False
        return any(side < 0 for side in flat) and not any(side > 0 for side in flat)
    return node.target in (aten.slice.Tensor, aten.index_select.default) and _axis(network, node) > 1


def _axis(network: Network, node: Node) -> int:
    return given(node).get("dim", 0) % max(len(network.shape(node)), 1)


def cropped(network: Network, node: Node) -> tuple[tuple[int, int], ...]:
    """By how much each side of the image is cropped."""
    x = cast(Node, node.args[0])
    dims = len(network.shape(x)) - 2
    if node.target in PADS:
        around = [(-a, -b) for a, b in _pairs(node)]
        if len(around) > dims:
            raise FoldRefused("cropping", "it crops channels or the batch as well")
        return tuple(reversed([*around, *[(0, 0)] * (dims - len(around))]))
    words, axis = given(node), _axis(network, node)
    if node.target is aten.index_select.default:
        words |= _range(network, words["index"])
    start = words.get("start") or 0
    end, size = _from_the_end(words.get("end"), x, axis), network.shape(x)[axis]
    if words.get("step", 1) != 1:
        raise FoldRefused("cropping", "it leaves out places in between")
    # From the end on, sides are the same at any size.
    known = isinstance(start, int) and isinstance(end, int | None)
    if not known or (size is None and not (start >= 0 and _at_the_end(end))):
        raise FoldRefused("cropping", "where it crops depends on the input")
    length = network.hint(x)[axis]
    first, last, _ = slice(start, end).indices(length)
    pairs = [(0, 0)] * dims
    pairs[axis - 2] = first, length - last
    return tuple(pairs)


def _range(network: Network, index: Node) -> dict[str, int]:
    """The slice that takes the places of an index."""
    places = network.constants.get(index)
    if places is None:
        raise FoldRefused("cropping", "which places it takes depends on the input")
    start = int(places[0]) if len(places) else 0
    if places.tolist() != list(range(start, start + len(places))):
        raise FoldRefused("cropping", "the places that it takes are not one after the other")
    return {"start": start, "end": start + len(places)}


def _from_the_end(end: Any, x: Node, axis: int) -> Any:
    """Where a slice ends, from the image's end on if that is the same at any size: ``x.shape[2] - 1``."""
    if not isinstance(end, Node):
        return end
    left = x.meta["val"].shape[axis] - end.meta["val"]
    behind = left if isinstance(left, int) else left.node.maybe_as_int()
    return end if behind is None or behind < 0 else -behind or None


def _at_the_end(end: int | None) -> bool:
    return end is None or end < 0 or end == sys.maxsize


def _chain(network: Network, node: Node) -> list[Node]:
    """From the padding to ``node``, through all that is written onto it."""
    found: list[Node] = []
    left = [node]
    while left:
        one = left.pop()
        if one in found or one.op != "call_function":
            continue
        found.append(one)
        if one.target not in PADS:
            left += [source for source in one.all_input_nodes if _varies(network, source)]
    return sorted(found, key=list(node.graph.nodes).index)


def _varies(network: Network, node: Node) -> bool:
    return node.target in (*PADS, *WRITES, *WITHIN) and node not in network.constants


def _pairs(node: Node) -> list[tuple[int, int]]:
    flat: Any = node.args[1]
    return [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]


def _mode(node: Node) -> object:
    return node.args[2] if node.target is aten.pad.default and len(node.args) > 2 else "constant"
