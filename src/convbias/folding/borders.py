"""Constant borders around an image, padded at once or written piece by piece."""

from __future__ import annotations

import sys
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from ..errors import FoldRefused
from .convolutions import given
from .graph import Network

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
    shape, dims = network.hint(x), len(network.shape(x)) - 2
    if len(pairs) > dims:
        raise FoldRefused(LAW, "it pads channels or the batch as well")
    if _mode(start) != "constant":
        raise FoldRefused(LAW, f"it pads with {_mode(start)}")
    around = tuple(reversed([*pairs, *[(0, 0)] * (dims - len(pairs))]))
    if any(side < 0 for pair in around for side in pair):
        raise FoldRefused(LAW, f"{around} crops the image")
    image = torch.rand(shape, dtype=torch.float64)
    made = _run(network, chain, {x: image})
    sizes = zip(around, made.shape[2:], strict=True)
    inside = (slice(None), slice(None), *(slice(a, size - b) for (a, b), size in sizes))
    if not torch.equal(made[inside], image):
        raise FoldRefused(LAW, "what is written reaches into the image")
    outside = torch.ones(made.shape[2:], dtype=torch.bool)
    outside[inside[2:]] = False
    values = made[:, :, outside]
    if not values.shape[2]:
        return x, around, torch.zeros(shape[1]).double(), chain
    if not bool((values == values[:1, :, :1]).all()):
        raise FoldRefused(LAW, "the border is not one number for each channel")
    return x, around, values[0, :, 0], chain


def crops(node: Node) -> bool:
    """Whether the node takes a part of the image's places, and adds none."""
    if node.target in PADS:
        flat = [side for pair in _pairs(node) for side in pair]
        return any(side < 0 for side in flat) and not any(side > 0 for side in flat)
    return node.target is aten.slice.Tensor and given(node).get("dim", 0) > 1


def cropped(network: Network, node: Node) -> tuple[tuple[int, int], ...]:
    """By how much each side of the image is cropped."""
    x = cast(Node, node.args[0])
    dims = len(network.shape(x)) - 2
    if node.target in PADS:
        around = [(-a, -b) for a, b in _pairs(node)]
        if len(around) > dims:
            raise FoldRefused("cropping", "it crops channels or the batch as well")
        return tuple(reversed([*around, *[(0, 0)] * (dims - len(around))]))
    words = given(node)
    axis, start = words["dim"], words.get("start") or 0
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


def _run(network: Network, chain: list[Node], known: dict[Node, Tensor]) -> Tensor:
    values: dict[Node, Any] = {**network.constants, **known}
    for node in chain:
        if not all(source in values for source in node.all_input_nodes):
            raise FoldRefused(LAW, "what is written depends on the input")
        arguments, words = map_arg((node.args, node.kwargs), lambda n: values[n])
        values[node] = cast(Any, node.target)(*arguments, **words)
    return values[chain[-1]]


def _pairs(node: Node) -> list[tuple[int, int]]:
    flat: Any = node.args[1]
    return [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]


def _mode(node: Node) -> object:
    return node.args[2] if node.target is aten.pad.default and len(node.args) > 2 else "constant"
