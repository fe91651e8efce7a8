"""Constants added behind a change of layout: tokens made of an image, and what a linear layer reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.fx import Node

from ..affine import Field, absorbed_by_linear, after
from ..errors import FoldRefused
from .elementwise import Elementwise, read
from .evaluation import evaluate
from .graph import Network
from .laws import Law, Operation, Refused, Site, input_of, parts, per_channel, readers

aten = torch.ops.aten
LAYOUTS: frozenset[Any] = frozenset(
    (
        *(aten.view.default, aten._unsafe_view.default, aten.clone.default, aten.alias.default),
        *(aten.permute.default, aten.transpose.int, aten.unsqueeze.default, aten.squeeze.dim),
    )
)


@final
class TokenBias(Law):
    """``tokens(conv(x))·a + P``: a position embedding ``P`` is a bias per output location."""

    name = "token bias"

    def find(self, network: Network) -> Iterator[Site | Refused]:
        for node in network.nodes:
            found = read(node, network)
            if found is None:
                continue
            cat = found.input if found.input.target is aten.cat.default else None
            ends = [found.input] if cat is None else [p for p in _joined(cat) if p not in network.constants]
            if len(ends) == 1 and ends[0].target in LAYOUTS and chain(ends[0])[0] in network.convolutions:
                yield self.tried(
                    network, node, lambda n=node, c=cat, e=ends[0], f=found: self._site(network, n, c, e, f)
                )

    def _site(self, network: Network, node: Node, cat: Node | None, end: Node, found: Elementwise) -> Site:
        conv, *path = chain(end)
        for one in (conv, *path, *([] if cat is None else [cat])):
            inside = (*path, cat, *parts(node), node)
            others = [network.label(user) for user in readers(one) if user not in inside]
            if others:
                raise FoldRefused(self.name, f"{network.label(one)} is also used by {', '.join(others)}")
        source = end if cat is None else cat
        if network.shape(node) != network.shape(source):
            raise FoldRefused(self.name, f"it makes {network.shape(source)} into {network.shape(node)}")
        places = _places(network, conv, path)
        if network.space(conv) is None:
            raise FoldRefused(self.name, "the layout depends on the size of the input")
        if places is None:
            raise FoldRefused(self.name, "the layout does not keep the images apart")

        def placed(constant: Tensor) -> Tensor:
            """The constant in the convolution's own layout, (1, K, *space)."""
            field = torch.empty(places.numel(), dtype=torch.float64)
            field[places.flatten()] = constant.flatten()
            return field.reshape(1, *network.hint(conv)[1:])

        scale, rewritten = None, dict[Node, Operation]()
        if found.scale is not None:
            if cat is not None:
                raise FoldRefused(self.name, "it also scales what is joined")
            scale = per_channel(
                self.name, placed(self._full(network, source, found.scale)), network.shape(conv)
            )
        full = None if found.shift is None else self._full(network, source, found.shift)
        if cat is not None and full is not None:
            axis, joined = _axis(cat), _joined(cat)
            if axis == 0:
                raise FoldRefused(self.name, "it joins images")
            pieces = full.split([network.hint(part)[axis] for part in joined], axis)
            full = pieces[joined.index(end)]
            new: list[Any] = []
            for part, piece in zip(joined, pieces, strict=True):
                if part is end:
                    new.append(end)
                elif network.shape(part)[0] is not None:
                    new.append(network.constants[part].double() + piece)
                elif part.target is aten.expand.default and len(part.users) == joined.count(part) == 1:
                    new.append(part)
                    value = network.constants[part].double() + piece
                    rewritten[part] = Operation(part.target, (value, *part.args[1:]))
                else:
                    raise FoldRefused(self.name, f"{network.label(part)} is read more than once")
            rewritten[cat] = Operation(cat.target, (new, axis))
        shift = None if full is None else Field(maps=(placed(full)[0],))
        value = after(network.convolutions[conv], scale, shift)
        becomes = {conv: (value, input_of(conv))}
        between = tuple(path) if cat is None else (*path, cat)
        return Site(
            self.name,
            (*parts(node), node),
            becomes,
            {node: source},
            rewritten,
            tuple(n for n in between if n not in rewritten),
        )

    def _full(self, network: Network, source: Node, constant: Tensor) -> Tensor:
        """The constant for each entry of one image, (1, ...)."""
        shape = network.hint(source)
        if constant.dim() == len(shape) and len(constant) != 1:
            raise FoldRefused(self.name, "the constant differs within the batch")
        return constant.expand(1, *shape[1:])


@final
class IntoLinear(Law):
    """``linear(flatten(s·x + T))`` is a linear layer of ``x``; so is that of a convolution's field."""

    name = "into linear"

    def find(self, network: Network) -> Iterator[Site | Refused]:
        for node in network.nodes:
            if node.target is aten.linear.default and len(network.shape(node)) == 2:
                first, *path = chain(input_of(node))
                known = [network.value(argument) for argument in node.args[1:]]
                if all(value is not None for value in known) and not network.shares(node):
                    yield from self._at(network, node, first, path)

    def _at(self, network: Network, node: Node, first: Node, path: list[Node]) -> Iterator[Site | Refused]:
        conv, found = network.convolutions.get(first), read(first, network)
        if conv is not None and repr(conv.smallest(network.space(input_of(first)))[0]) not in (
            "none",
            "tied",
        ):
            yield self.tried(network, first, lambda: self._field(network, node, first, path))
        elif found is not None:
            yield self.tried(network, first, lambda: self._affine(network, node, first, found, path))

    def _field(self, network: Network, node: Node, first: Node, path: list[Node]) -> Site:
        conv, size = network.convolutions[first], network.space(input_of(first))
        if size is None:
            raise FoldRefused(self.name, "a map whose size depends on the input")
        places = self._checked(network, node, first, path)
        weight, bias = self._parameters(network, node)
        bias = absorbed_by_linear(weight, bias, conv.bias.at(conv.site(size)).flatten()[places])
        becomes = {first: (conv.with_bias(Field()), input_of(first))}
        rewritten = {node: Operation(node.target, (node.args[0], weight, bias))}
        return Site(self.name, (), becomes, {}, rewritten, tuple(path))

    def _affine(
        self, network: Network, node: Node, first: Node, found: Elementwise, path: list[Node]
    ) -> Site:
        places = self._checked(network, node, first, path)
        shape = network.hint(first)[1:]
        weight, bias = self._parameters(network, node)

        def flat(constant: Tensor) -> Tensor:
            if constant.dim() > len(shape) and len(constant) != 1:
                raise FoldRefused(self.name, "the constant differs within the batch")
            return constant.expand(1, *shape).flatten()[places]

        if network.shape(found.input) != network.shape(first):
            raise FoldRefused(self.name, f"it makes {network.shape(found.input)} into {network.shape(first)}")
        if found.shift is not None:
            bias = absorbed_by_linear(weight, bias, flat(found.shift))
        if found.scale is not None:
            weight = weight * flat(found.scale)
        rest = () if bias is None else (bias,)
        rewritten = {node: Operation(node.target, (node.args[0], weight, *rest))}
        return Site(self.name, (*parts(first), first), {}, {first: found.input}, rewritten, tuple(path))

    def _checked(self, network: Network, node: Node, first: Node, path: list[Node]) -> Tensor:
        for one in (first, *path):
            others = [network.label(user) for user in one.users if user not in (*path, node)]
            if others:
                raise FoldRefused(self.name, f"{network.label(one)} is also used by {', '.join(others)}")
        places = _places(network, first, path)
        if places is None or places.numel() != network.hint(node.all_input_nodes[0])[1]:
            raise FoldRefused(self.name, "it does not read whole images, one by one")
        return places.flatten()

    def _parameters(self, network: Network, node: Node) -> tuple[Tensor, Tensor | None]:
        weight, *bias = (value for value in map(network.value, node.args[1:]) if value is not None)
        return weight, bias[0] if bias else None


def chain(end: Node) -> list[Node]:
    """What a change of layout starts from, and the nodes that make it, in their order."""
    found = [end]
    while found[0].target in LAYOUTS:
        found.insert(0, input_of(found[0]))
    return found


def _places(network: Network, first: Node, path: Sequence[Node]) -> Tensor | None:
    """Where in the first image each entry of the result's first one comes from; None where it is mixed."""
    shape = network.hint(first)
    each = torch.Size(shape[1:]).numel()
    numbered = torch.arange(shape[0] * each, dtype=torch.float64).reshape(shape)
    out: Tensor = evaluate(network, path, {first: numbered})[path[-1]] if path else numbered
    places = out[0].long()
    whole = len(out) == shape[0] and places.numel() == each and int(places.max()) < each
    return places if whole else None


def _joined(cat: Node) -> list[Node]:
    parts: Any = cat.args[0]
    return list(parts)


def _axis(cat: Node) -> int:
    axis: Any = cat.args[1] if len(cat.args) > 1 else 0
    return axis % cat.meta["val"].dim()
