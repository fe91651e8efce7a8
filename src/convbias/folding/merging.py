"""The laws that make one convolution of several: one after another, and beside each other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast, final

import torch
from torch.fx import Node

from ..affine import AffineConv, after, compose, identity, parallel
from ..errors import FoldRefused
from .elementwise import Elementwise, read
from .graph import Network
from .laws import Law, Operation, Refused, Site, as_field, input_of, parts, per_channel

aten = torch.ops.aten
SIGNS: dict[Any, float] = {aten.add.Tensor: 1.0, aten.sub.Tensor: -1.0}
# What is added up, and how many times.
Term = tuple[Node, float]


@final
class Composition(Law):
    """A 1×1 convolution and another one, with nothing between them, are one."""

    name = "composition"

    def find(self, network: Network) -> Iterator[Site | Refused]:
        for node in network.nodes:
            if node in network.convolutions and input_of(node) in network.convolutions:
                yield self.tried(network, node, lambda node=node: self._site(network, node))

    def _site(self, network: Network, node: Node) -> Site:
        source = input_of(node)
        others = [network.label(user) for user in source.users if user is not node]
        if others:
            raise FoldRefused(self.name, f"the first one's output is also used by {', '.join(others)}")
        first, second = network.convolutions[source], network.convolutions[node]
        size = network.space(input_of(source))
        return Site(self.name, (source,), {node: (compose(first, second, size), input_of(source))})


@final
class ParallelBranches(Law):
    """Branches of one input that are summed are one convolution: identity, BatchNorm, pooling among them."""

    name = "parallel branches"

    def find(self, network: Network) -> Iterator[Site | Refused]:
        for node in network.nodes:
            if _is_sum(node) and not any(_is_sum(user) and len(node.users) == 1 for user in node.users):
                yield from self._of_sum(network, node)

    def _of_sum(self, network: Network, node: Node) -> Iterator[Site | Refused]:
        sums, terms = _terms(node)
        leaves = [leaf for leaf, _ in terms]
        by_input: dict[Node, list[Term]] = {}
        for leaf, factor in terms:
            by_input.setdefault(_base(network, leaf, leaves), []).append((leaf, factor))
        for base, some in by_input.items():
            if len(some) > 1 and any(branch in network.convolutions for branch, _ in some):
                place = (network, base, some, sums, [term for term in terms if term not in some])
                yield self.tried(network, node, lambda place=place: self._site(*place))
                if node in network.erased or _terms(node)[1] != terms:
                    return  # it is another sum now

    def _site(
        self, network: Network, base: Node, terms: list[Term], sums: list[Node], rest: list[Term]
    ) -> Site:
        root, branches = sums[0], [branch for branch, _ in terms]
        for branch in branches:
            if branch is not base and branches.count(branch) > 1:
                raise FoldRefused(self.name, f"{network.label(branch)} is added twice")
            others = [network.label(user) for user in branch.users if user not in sums]
            if branch is not base and others:
                raise FoldRefused(self.name, f"{network.label(branch)} is also used by {', '.join(others)}")
        dims = len(network.shape(base)) - 2
        convolutions = [network.convolutions[branch] for branch in branches if branch in network.convolutions]
        groups = math.gcd(*(conv.groups for conv in convolutions))
        values = [_as_convolution(self.name, network, base, term, (dims, groups)) for term in terms]
        keep = next(branch for branch in branches if branch in network.convolutions)
        taken = [part for branch in branches if branch not in network.convolutions for part in parts(branch)]
        merged = parallel(*values, input_size=network.space(base))
        rewritten = self._added(network, keep, sums, rest)
        gone = [node for node in (*taken, *branches, *sums) if node not in (keep, base, *rewritten)]
        gone.sort(key=list(network.module.graph.nodes).index)
        instead = {} if rest else {root: keep}
        return Site(self.name, tuple(gone), {keep: (merged, base)}, instead, rewritten)

    def _added(
        self, network: Network, keep: Node, sums: list[Node], rest: list[Term]
    ) -> dict[Node, Operation]:
        """What is left of the additions, where a part of the sum is none of the branches: ``keep + rest``."""
        root, made, known = sums[0], keep.meta["val"], sums[0].meta["val"]
        if rest and (network.shape(root) != network.shape(keep) or made.dtype != known.dtype):
            raise FoldRefused(self.name, f"the rest of the sum makes {network.shape(keep)} another value")
        rewritten: dict[Node, Operation] = {}
        last = keep
        for total, (leaf, factor) in zip(_together(sums)[len(sums) - len(rest) :], rest, strict=True):
            if abs(factor) != 1:
                raise FoldRefused(
                    self.name, f"the rest of the sum has {network.label(leaf)} {factor:g} times"
                )
            operator = aten.add.Tensor if factor == 1 else aten.sub.Tensor
            rewritten[total] = Operation(operator, (last, leaf), known)
            last = total
        return rewritten


def _as_convolution(law: str, network: Network, base: Node, term: Term, like: tuple[int, int]) -> AffineConv:
    """A branch times its factor; where it is no convolution, in as many dimensions and groups as ``like``."""
    branch, factor = term
    value = network.convolutions.get(branch)
    if value is None:
        channels = network.shape(base)[1]
        if channels is None:
            raise FoldRefused(law, "how many channels there are depends on the input")
        value = identity(channels, *like, dtype=torch.float64)
        if branch is not base:
            found, shape = cast(Elementwise, read(branch, network)), network.shape(base)
            scale = None if found.scale is None else per_channel(law, found.scale, shape)
            value = after(value, scale, None if found.shift is None else as_field(law, found.shift, shape))
    return value if factor == 1 else after(value, torch.full((value.out_channels,), factor).double())


def _is_sum(node: Node) -> bool:
    """Whether the node adds or subtracts two values, one of them perhaps times a number."""
    known = isinstance(node.kwargs.get("alpha", 1), (int, float))
    return node.target in SIGNS and known and all(isinstance(argument, Node) for argument in node.args)


def _terms(root: Node) -> tuple[list[Node], list[Term]]:
    """The additions of a tree, and what they add up, with the factor of each."""
    sums, terms, left = [root], list[Term](), [(root, 1.0)]
    while left:
        node, factor = left.pop()
        first, second = cast(tuple[Node, Node], node.args)
        alpha = float(cast(float, node.kwargs.get("alpha", 1)))
        for argument, times in ((first, factor), (second, factor * SIGNS[node.target] * alpha)):
            if _is_sum(argument) and len(argument.users) == 1 and first is not second:
                sums.append(argument)
                left.append((argument, times))
            else:
                terms.append((argument, times))
    return sums, terms


def _together(sums: list[Node]) -> list[Node]:
    """The additions of a tree in their order, moved to right before the last: behind all that they add."""
    root, *others = sums
    others.sort(key=list(root.graph.nodes).index)
    for one in others:
        root.prepend(one)
    return [*others, root]


def _base(network: Network, leaf: Node, leaves: list[Node]) -> Node:
    """The input of a branch: of a convolution, or of an affine map beside one."""
    if leaf in network.convolutions:
        return input_of(leaf)
    found = read(leaf, network)
    inputs = {input_of(other) for other in leaves if other in network.convolutions}
    return found.input if found is not None and found.input in inputs else leaf
