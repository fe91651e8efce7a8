"""Affine maps carried through an activation, and through pooling beside it, to the next convolution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor
from torch.fx import Node

from ..affine import after, before, relu_floor, through_max_pool, tied
from ..errors import FoldRefused
from .convolutions import given
from .elementwise import Elementwise, read
from .graph import Network
from .laws import Law, Operation, Refused, Site, input_of, parts, per_channel

aten = torch.ops.aten
# For each channel.
Bounds = tuple[Tensor | None, Tensor | None]
# The arguments for the least and the largest value, and what they are where they are not given.
CLAMPS: dict[Any, tuple[tuple[str, float | None], tuple[str, float | None]]] = {
    aten.relu.default: (("", 0.0), ("", None)),
    aten.relu6.default: (("", 0.0), ("", 6.0)),
    aten.hardtanh.default: (("min_val", -1.0), ("max_val", 1.0)),
    aten.clamp.default: (("min", None), ("max", None)),
    aten.clamp.Tensor: (("min", None), ("max", None)),
    aten.clamp_min.default: (("min", None), ("", None)),
    aten.clamp_min.Tensor: (("min", None), ("", None)),
    aten.clamp_max.default: (("", None), ("max", None)),
    aten.clamp_max.Tensor: (("", None), ("max", None)),
    aten.maximum.default: (("other", None), ("", None)),
    aten.minimum.default: (("", None), ("other", None)),
    aten.fmax.default: (("other", None), ("", None)),
    aten.threshold.default: (("threshold", None), ("", None)),
}
POOLS = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)


@final
class ShiftedReLU(Law):
    """``a·relu(z) + b = a·max(z + c, c)``, c = b/a: the convolution takes up c, the next one a, no map."""

    name = "shifted ReLU"

    def find(self, network: Network) -> Iterator[Site | Refused]:
        for node in network.nodes:
            if node.target in CLAMPS and input_of(node) in network.convolutions:
                path = _path(network, node)
                if any(read(one, network) for one in path):
                    place = (network, node, path)
                    yield self.tried(network, node, lambda place=place: self._site(*place))

    def _site(self, network: Network, activation: Node, path: list[Node]) -> Site:
        conv, last, bounds = input_of(activation), path[-1], self._bounds(network, activation)
        gone = [part for node in path if read(node, network) for part in (*parts(node), node)]
        between = [node for node in path if node not in gone]
        for node in (conv, activation, *path[:-1]):
            inside = {activation, *path, *gone}
            others = [network.label(user) for user in node.users if user not in inside]
            if others:
                raise FoldRefused(self.name, f"{network.label(node)} is also used by {', '.join(others)}")
        others = [network.label(user) for user in last.users if user not in network.convolutions]
        if others:
            raise FoldRefused(self.name, f"{', '.join(others)} cannot take up the scale")
        scale, floor = self._scale_and_floor(network, path)
        value = network.convolutions[conv]
        becomes = {conv: (after(value, None, tied(floor, value.geometry.dims)), input_of(conv))}
        for end in last.users:
            becomes[end] = before(network.convolutions[end], scale), [activation, *between][-1]
        axes = (-1, *(1,) * value.geometry.dims)
        least, most = (None if bound is None else (bound + floor).reshape(axes) for bound in bounds)
        clamp = Operation(aten.clamp.Tensor, (conv, least, most))
        # From the first to the last: each is read in the place of the next.
        instead: dict[Node, Node] = {}
        for node in path:
            if node in gone:
                source = input_of(parts(node)[0]) if parts(node) else self._read(network, node).input
                instead[node] = instead.get(source, source)
        return Site(self.name, tuple(gone), becomes, instead, {activation: clamp}, tuple(between))

    def _bounds(self, network: Network, activation: Node) -> Bounds:
        """What the activation keeps each channel of its input within."""
        words, found = given(activation), list[Tensor | None]()
        if words.get("value") != words.get("threshold"):
            raise FoldRefused(self.name, "it jumps")
        if activation.target is aten.fmax.default:
            raise FoldRefused(self.name, "it makes a number of what is none (NaN), which no clamp does")
        for name, default in CLAMPS[activation.target]:
            word = words.get(name, default)
            value = network.value(word)
            if word is not None and value is None:
                raise FoldRefused(self.name, "its bounds depend on the input")
            shape = network.shape(input_of(activation))
            found.append(None if value is None else per_channel(self.name, value, shape, "the bound"))
        return found[0], found[1]

    def _scale_and_floor(self, network: Network, path: list[Node]) -> tuple[Tensor, Tensor]:
        """Of all the affine maps together, ``a`` and ``b/a``."""
        scale, shift = torch.ones(()).double(), torch.zeros(()).double()
        mapped = False
        for node in path:
            if node.target in POOLS:
                if mapped:
                    through_max_pool(scale)
                continue
            found, shape, mapped = self._read(network, node), network.shape(node), True
            if network.shape(found.input) != shape:
                raise FoldRefused(self.name, f"it makes {network.shape(found.input)} into {shape}")
            a = torch.ones(()).double() if found.scale is None else found.scale
            b = torch.zeros(()).double() if found.shift is None else found.shift
            a, b = per_channel(self.name, a, shape), per_channel(self.name, b, shape)
            scale, shift = a * scale, a * shift + b
        floor = relu_floor(scale, shift)
        if bool((floor.abs() > torch.finfo(path[0].meta["val"].dtype).max).any()):
            raise FoldRefused(self.name, "shift/scale is outside the dtype's range")
        return scale, floor

    def _read(self, network: Network, node: Node) -> Elementwise:
        found = read(node, network)
        if found is None:
            raise FoldRefused(self.name, f"{network.label(node)} is no affine map")
        return found


def _path(network: Network, activation: Node) -> list[Node]:
    """What follows the activation one by one: affine maps and max pooling."""
    found: list[Node] = []
    node = activation
    while True:
        users = [user for one in node.users for user in (one.users if _opens(one) else (one,))]
        following = [user for user in users if user.target in POOLS or read(user, network) is not None]
        if len(following) != 1:
            return found
        (node,) = following
        found.append(node)


def _opens(node: Node) -> bool:
    """Whether the node is one whose results are taken out one by one: BatchNorm."""
    return bool(node.users) and all(getattr(user.target, "__name__", "") == "getitem" for user in node.users)
