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
from .laws import Law, Refused, Site, input_of, parts, per_channel

aten = torch.ops.aten
Bounds = tuple[float, float | None]
# The arguments for the least and the largest value, and what they are where they are not given.
CLAMPS: dict[Any, tuple[tuple[str, float | None], tuple[str, float | None]]] = {
    aten.relu.default: (("", 0.0), ("", None)),
    aten.relu6.default: (("", 0.0), ("", 6.0)),
    aten.hardtanh.default: (("min_val", -1.0), ("max_val", 1.0)),
    aten.clamp.default: (("min", None), ("max", None)),
}
POOLS = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)


@final
class ShiftedReLU(Law):
    """``a·relu(z) + b = a·max(z + c, c)``, c = b/a: the convolution takes up c, the next one a, no map."""

    name = "shifted ReLU"

    def find(self, network: Network) -> Iterator[Site | Refused]:
        for node in network.nodes:
            bounds = clamps(node)
            if bounds is not None and input_of(node) in network.convolutions:
                path = _path(network, node)
                affine = next(((one, found) for one in path if (found := read(one, network))), None)
                if affine is not None:
                    place = (network, node, bounds, path, *affine)
                    yield self.tried(network, node, lambda place=place: self._site(*place))

    def _site(
        self,
        network: Network,
        activation: Node,
        bounds: Bounds,
        path: list[Node],
        affine: Node,
        found: Elementwise,
    ) -> Site:
        conv, last = input_of(activation), path[-1]
        inside = {activation, *path, *parts(affine)}
        for node in (conv, activation, *path[:-1]):
            others = [network.label(user) for user in node.users if user not in inside]
            if others:
                raise FoldRefused(self.name, f"{network.label(node)} is also used by {', '.join(others)}")
        others = [network.label(user) for user in last.users if user not in network.convolutions]
        if others:
            raise FoldRefused(self.name, f"{', '.join(others)} cannot take up the scale")
        scale, floor = self._scale_and_floor(network, affine, found)
        if any(node.target in POOLS for node in path[path.index(affine) :]):
            through_max_pool(scale)
        value, between = network.convolutions[conv], [node for node in path if node is not affine]
        becomes = {conv: (after(value, None, tied(floor, value.geometry.dims)), input_of(conv))}
        for end in last.users:
            becomes[end] = before(network.convolutions[end], scale), [activation, *between][-1]
        spread = floor.reshape(-1, *(1,) * value.geometry.dims)
        least, most = bounds[0] + spread, None if bounds[1] is None else bounds[1] + spread
        clamp = (aten.clamp.Tensor, (conv, least, most))
        gone = (*parts(affine), affine)
        return Site(self.name, gone, becomes, {affine: found.input}, {activation: clamp}, tuple(between))

    def _scale_and_floor(self, network: Network, affine: Node, found: Elementwise) -> tuple[Tensor, Tensor]:
        shape = network.shape(affine)
        if network.shape(found.input) != shape:
            raise FoldRefused(self.name, f"it makes {network.shape(found.input)} into {shape}")
        one, zero = torch.ones(()).double(), torch.zeros(()).double()
        scale = per_channel(self.name, one if found.scale is None else found.scale, shape)
        floor = relu_floor(scale, per_channel(self.name, zero if found.shift is None else found.shift, shape))
        if bool((floor.abs() > torch.finfo(affine.meta["val"].dtype).max).any()):
            raise FoldRefused(self.name, "shift/scale is outside the dtype's range")
        return scale, floor


def clamps(node: Node) -> Bounds | None:
    """The bounds that an activation keeps its input within; None for what is no such activation."""
    if node.target not in CLAMPS:
        return None
    words = given(node)
    low, high = CLAMPS[node.target]
    least, most = (words.get(name, default) for name, default in (low, high))
    known = isinstance(least, (int, float)) and isinstance(most, (int, float, type(None)))
    return (least, most) if known else None


def _path(network: Network, activation: Node) -> list[Node]:
    """What follows the activation: an affine map, with the pooling before and after it."""
    found: list[Node] = []
    node, mapped = activation, False
    while True:
        users = [user for user in node.users if not _opens(user)] + [
            u for o in node.users if _opens(o) for u in o.users
        ]
        following = [u for u in users if u.target in POOLS or (not mapped and read(u, network) is not None)]
        if len(following) != 1:
            return found
        (node,) = following
        mapped = mapped or node.target not in POOLS
        found.append(node)


def _opens(node: Node) -> bool:
    """Whether the node is one whose results are taken out one by one: BatchNorm."""
    return bool(node.users) and all(getattr(user.target, "__name__", "") == "getitem" for user in node.users)
