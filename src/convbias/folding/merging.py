"""The laws that make one convolution of several: one after another, and beside each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast, final

import torch
from torch.fx import Node

from ..affine import AffineConv, after, compose, identity, parallel
from ..errors import FoldRefused
from .graph import Network
from .laws import (
    AffineBefore,
    ConstantPadding,
    Cropping,
    Front,
    Law,
    Operation,
    Refused,
    Site,
    Taken,
    input_of,
    read_elsewhere,
)
from .picking import PickedChannels

aten = torch.ops.aten
SIGNS: dict[Any, float] = {aten.add.Tensor: 1.0, aten.sub.Tensor: -1.0}
# What is added up, and how many times.
Term = tuple[Node, float]


@final
class Composition(Front):
    """A 1×1 convolution and another one, with nothing between them, are one."""

    name = "composition"

    def begins(self, network: Network, node: Node) -> bool:
        return node in network.convolutions

    def taken_up(self, network: Network, node: Node, conv: AffineConv) -> Taken:
        if len(node.users) > 1:
            raise FoldRefused(self.name, "more than one reads the first one's output: each would repeat it")
        x = input_of(node)
        return Taken(compose(network.convolutions[node], conv, network.space(x)), x, (node,))


FRONTS: tuple[Front, ...] = (AffineBefore(), ConstantPadding(), Cropping(), PickedChannels(), Composition())


@final
class Branch(NamedTuple):
    """One of what is added up: what it does to the image that it shares with others, as a convolution.

    ``end`` is added ``factor`` times; the nodes that go with it are those which nobody else reads.
    """

    end: Node
    factor: float
    conv: AffineConv
    base: Node
    gone: tuple[Node, ...]


@final
class ParallelBranches(Law):
    """Branches of one input that are summed are one convolution: identity, BatchNorm, pooling among them.

    Each is followed back to what others read as well, by every law on what stands in front of a
    convolution: a step that does not pay by itself may pay in the sum.
    """

    name = "parallel branches"

    def find(self, network: Network) -> Iterator[Site | Refused]:
        for node in network.nodes:
            if _is_sum(node) and not any(_is_sum(user) and len(node.users) == 1 for user in node.users):
                yield from self._of_sum(network, node)

    def _of_sum(self, network: Network, node: Node) -> Iterator[Site | Refused]:
        sums, terms = _terms(node)
        by_input: dict[Node, list[Branch]] = {}
        for term in terms:
            branch = _branch(network, term, sums)
            if branch is not None:
                by_input.setdefault(branch.base, []).append(branch)
        for some in by_input.values():
            # All of them or, where they are too unlike each other, two.
            tries = [some, *(itertools.combinations(some, 2) if len(some) > 2 else ())]
            for branches in tries:
                if len(branches) > 1 and any(branch.end in network.convolutions for branch in branches):
                    place = (network, branches, sums, terms)
                    found = self.tried(network, node, lambda place=place: self._site(*place))
                    if isinstance(found, Site) or branches is some:
                        yield found
                    if node in network.erased or _terms(node)[1] != terms:
                        return  # it is another sum now

    def _site(
        self, network: Network, branches: Sequence[Branch], sums: list[Node], terms: list[Term]
    ) -> Site:
        root, base, ends = sums[0], branches[0].base, [branch.end for branch in branches]
        rest = list(terms)
        for branch in branches:
            rest.remove((branch.end, branch.factor))
        for end, _, _, _, gone in branches:
            if end is not base and [end for end, _ in terms].count(end) > 1:
                raise FoldRefused(self.name, f"{network.label(end)} is added twice")
            others = [network.label(user) for user in read_elsewhere(network, gone, sums)]
            if others:
                raise FoldRefused(self.name, f"{network.label(end)} is also used by {', '.join(others)}")
        keep = next(end for end in ends if end in network.convolutions)
        values = [
            conv if factor == 1 else after(conv, torch.full((conv.out_channels,), factor).double())
            for _, factor, conv, _, _ in branches
        ]
        merged = parallel(*values, input_size=network.space(base))
        rewritten = self._added(network, keep, sums, rest)
        taken = {*sums, *(node for branch in branches for node in branch.gone)} - {keep, *rewritten}
        gone = sorted(taken, key=list(network.module.graph.nodes).index)
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


def _branch(network: Network, term: Term, sums: Sequence[Node]) -> Branch | None:
    """What is added, followed back as far as nobody else reads it. None for what has no channels."""
    end, factor = term
    conv, base, gone, shape = network.convolutions.get(end), end, tuple[Node, ...](), network.shape(end)
    if conv is not None:
        base, gone = input_of(end), (end,)
    elif len(shape) > 2 and (channels := shape[1]) is not None:
        conv = identity(channels, len(shape) - 2, channels, torch.float64)
    else:
        return None
    while (taken := _step(network, base, conv)) is not None:
        if read_elsewhere(network, taken.gone, gone or sums):
            break
        conv, base, gone = taken.conv, taken.source, (*taken.gone, *gone)
    return Branch(end, factor, conv, base, gone)


def _step(network: Network, node: Node, conv: AffineConv) -> Taken | None:
    """``conv`` with what stands right in front of it, by the first law that can."""
    for law in FRONTS:
        if law.name not in network.forbidden and law.begins(network, node):
            try:
                return law.taken_up(network, node, conv)
            except FoldRefused:
                continue
    return None


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
