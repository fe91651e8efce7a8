"""The laws on graphs: where each applies, why not elsewhere, and the rewriting."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast, final

import torch
from torch import Tensor
from torch.fx import Node

from ..affine import AffineConv, Field, after, before, constant_padding, cropping
from ..affine.field import narrowed
from ..errors import FoldRefused
from . import borders, casts
from .convolutions import is_uneven
from .elementwise import Elementwise, read, unknown
from .graph import Network

aten = torch.ops.aten


@final
@dataclass(frozen=True, eq=False)
class Operation:
    """What a node is to do: tensors among the ``arguments`` are new constants.

    ``result`` is a value such as the node will have, where its shape changes.
    """

    operator: Any
    arguments: tuple[Any, ...]
    result: Tensor | None = None


@final
@dataclass(frozen=True, eq=False)
class Site:
    """A place where a law applies, and what it does there.

    ``gone`` are the nodes that go; ``becomes`` gives, by convolution, its new value and input; ``rewritten``,
    by node, what it does from now on; ``instead``, by node, what its users read. ``between`` are nodes that
    stay as they are among those.
    """

    law: str
    gone: tuple[Node, ...]
    becomes: dict[Node, tuple[AffineConv, Node]]
    instead: dict[Node, Node] = field(default_factory=dict[Node, Node])
    rewritten: dict[Node, Operation] = field(default_factory=dict[Node, Operation])
    between: tuple[Node, ...] = ()

    @property
    def nodes(self) -> set[Node]:
        """All that take part."""
        return {*self.gone, *self.becomes, *self.rewritten, *self.between}


@final
class Taken(NamedTuple):
    """A convolution that has taken up what stood in front of it: what it reads now, and the nodes that go."""

    conv: AffineConv
    source: Node
    gone: tuple[Node, ...]


@final
@dataclass(frozen=True)
class Refused:
    """A place where a law nearly applies, and why it does not."""

    law: str
    layer: str
    reason: str


class Law(ABC):
    """One law. Abstract."""

    name: str

    @abstractmethod
    def find(self, network: Network) -> Iterator[Site | Refused]:
        """Every place, as the graph is now."""

    def tried(self, network: Network, node: Node, make: Callable[[], Site]) -> Site | Refused:
        """What ``make`` makes, or why it does not."""
        try:
            return make()
        except FoldRefused as refused:
            return Refused(self.name, network.label(node), refused.reason)


@final
class AffineAfter(Law):
    """``a·conv(x) + T`` is a convolution."""

    name = "affine after"

    def find(self, network: Network) -> Iterator[Site | Refused]:
        for node in network.nodes:
            found, varies = read(node, network), unknown(node, network)
            if found is not None and found.input in network.convolutions:
                place = (network, node, found)
                yield self.tried(network, node, lambda place=place: self._site(*place))
            elif found is None and varies is not None and varies[0] in network.convolutions:
                yield Refused(self.name, network.label(node), varies[1])

    def _site(self, network: Network, node: Node, found: Elementwise) -> Site:
        conv, source = network.convolutions[found.input], found.input
        others = [
            network.label(user) for user in readers(source) if user is not node and user not in parts(node)
        ]
        if others:
            raise FoldRefused(
                self.name, f"the convolution's output is also used by {', '.join(others)}: it would run twice"
            )
        shape = network.shape(source)
        scale = None if found.scale is None else per_channel(self.name, found.scale, shape)
        shift = None if found.shift is None else as_field(self.name, found.shift, shape)
        if network.shape(node) != shape:
            raise FoldRefused(self.name, f"it makes {shape} into {network.shape(node)}")
        becomes = {source: (after(conv, scale, shift), input_of(source))}
        return Site(self.name, (*parts(node), node), becomes, {node: source})


class Front(Law):
    """A law on what stands in front of convolutions, which take it up. Abstract.

    Where it ``moves`` numbers and changes none, a cast of whole numbers may stand between: it goes in front.
    """

    moves = False

    @abstractmethod
    def begins(self, network: Network, node: Node) -> bool:
        """Whether a convolution that reads ``node`` might take it up."""

    @abstractmethod
    def taken_up(self, network: Network, node: Node, conv: AffineConv) -> Taken:
        """``conv`` after ``node`` as one convolution. Raises FoldRefused where there is none."""

    def find(self, network: Network) -> Iterator[Site | Refused]:
        for last in network.nodes:
            if any(user in network.convolutions for user in last.users):
                cast = last if self.moves and casts.is_of_whole_numbers(last) else None
                node = last if cast is None else input_of(last)
                if self.begins(network, node):
                    place = (network, node, cast)
                    yield self.tried(network, node, lambda place=place: self._site(*place))

    def _site(self, network: Network, node: Node, cast: Node | None) -> Site:
        ends = [user for user in (cast or node).users if user in network.convolutions]
        taken = {end: self.taken_up(network, node, network.convolutions[end]) for end in ends}
        _, source, gone = taken[ends[0]]
        between = () if cast is None else (cast,)
        others = [network.label(user) for user in read_elsewhere(network, (*gone, *between), ends)]
        if others:
            raise FoldRefused(
                self.name, f"its output is also used by {', '.join(others)}: nothing would be saved"
            )
        if cast is None:
            return Site(self.name, gone, {end: (made.conv, source) for end, made in taken.items()})
        dtype = cast.meta["val"].dtype
        earlier = Operation(casts.TO_DTYPE, (source, dtype), source.meta["val"].to(dtype))
        becomes = {end: (made.conv, cast) for end, made in taken.items()}
        return Site(self.name, gone, becomes, {}, {cast: earlier})


@final
class AffineBefore(Front):
    """``conv(s·x + T)`` is a convolution: with a tap bias where it is padded with zeros."""

    name = "affine before"

    def begins(self, network: Network, node: Node) -> bool:
        return read(node, network) is not None

    def find(self, network: Network) -> Iterator[Site | Refused]:
        yield from super().find(network)
        for node in network.nodes:
            if any(user in network.convolutions for user in node.users) and not self.begins(network, node):
                varies = unknown(node, network)
                if varies is not None:
                    yield Refused(self.name, network.label(node), varies[1])

    def taken_up(self, network: Network, node: Node, conv: AffineConv) -> Taken:
        found, shape = cast(Elementwise, read(node, network)), network.shape(node)
        if network.shape(found.input) != shape:
            raise FoldRefused(self.name, f"it makes {network.shape(found.input)} into {shape}")
        scale = None if found.scale is None else per_channel(self.name, found.scale, shape)
        shift = None if found.shift is None else as_field(self.name, found.shift, shape)
        return Taken(before(conv, scale, shift, network.space(node)), found.input, (*parts(node), node))


@final
class ConstantPadding(Front):
    """A constant around the input before a convolution without padding is the convolution's own padding."""

    name = "constant padding"
    moves = True

    def begins(self, network: Network, node: Node) -> bool:
        return node.target in (*borders.PADS, *borders.WRITES) and not borders.crops(network, node)

    def taken_up(self, network: Network, node: Node, conv: AffineConv) -> Taken:
        x, around, value, chain = borders.border(network, node)
        dtype = node.meta["val"].dtype
        if not dtype.is_floating_point and not torch.equal(value.to(dtype).double(), value):
            raise FoldRefused(self.name, f"the border is no number that {dtype} has")
        made = constant_padding(conv, around, value)
        if not dtype.is_floating_point and not value.any() and is_uneven(made):
            raise FoldRefused(self.name, "no layer pads its sides differently: it would be written before it")
        return Taken(made, x, tuple(chain))


@final
class Cropping(Front):
    """A convolution of a part of the image is one of all of it, with zeros around its kernel."""

    name = "cropping"
    moves = True

    def begins(self, network: Network, node: Node) -> bool:
        return borders.crops(network, node)

    def taken_up(self, network: Network, node: Node, conv: AffineConv) -> Taken:
        x = input_of(node)
        return Taken(cropping(conv, borders.cropped(network, node)), x, (node,))


def apply(network: Network, site: Site) -> None:
    """Rewrite the graph."""
    for conv, (value, source) in site.becomes.items():
        network.convolutions[conv] = value
        network.changed.add(conv)
        conv.replace_input_with(input_of(conv), source)
    for node, operation in site.rewritten.items():
        network.rewrite(node, operation.operator, operation.arguments)
        if operation.result is not None:
            node.meta["val"] = operation.result
    for node, other in site.instead.items():
        node.replace_all_uses_with(other)
    for node in reversed(site.gone):
        _forget(network, node)


def _forget(network: Network, node: Node) -> None:
    """Erase the node if nobody uses it, and what it alone has used."""
    if node.users or node.op != "call_function" or node in network.erased:
        return
    sources = node.all_input_nodes
    network.forget(node)
    for source in sources:
        _forget(network, source)


def input_of(conv: Node) -> Node:
    """What a convolution reads."""
    return cast(Node, conv.args[0])


def readers(node: Node) -> list[Node]:
    """Who uses the values of ``node``, and not its size alone."""
    return [user for user in node.users if user.target is not aten.sym_size.int]


def read_elsewhere(network: Network, nodes: Collection[Node], ends: Collection[Node]) -> list[Node]:
    """Who else uses the ``nodes`` but they themselves, and ``ends``."""
    inside = {*nodes, *ends}
    users = (user for node in nodes for user in node.users if user not in inside)
    return [user for user in users if not _is_filled_for(network, user, inside)]


def _is_filled_for(network: Network, node: Node, nodes: Collection[Node]) -> bool:
    """Whether the node is a part that is filled, whatever it was, and then written onto one of ``nodes``."""
    known = node in network.constants or node.target in (aten.slice.Tensor, aten.select.int)
    return known and all(user in nodes or _is_filled_for(network, user, nodes) for user in node.users)


def per_channel(law: str, scale: Tensor, shape: tuple[int | None, ...], what: str = "the scale") -> Tensor:
    """A scale as ``(C,)``. Raises FoldRefused for one that differs from place to place."""
    (values,) = as_field(law, scale, shape).maps
    if bool(values.isnan().any()):
        raise FoldRefused(law, f"{what} is no number (NaN) for some channels")
    for axis in range(1, values.dim()):
        first = values.narrow(axis, 0, 1)
        if not bool((values == first).all()):
            raise FoldRefused(law, f"{what} differs from place to place")
        values = first
    channels = shape[1]
    if channels is None:
        raise FoldRefused(law, "how many channels there are depends on the input")
    return values.flatten().expand(channels)


def as_field(law: str, shift: Tensor, shape: tuple[int | None, ...]) -> Field:
    """A constant that is added to a value (N, C, *space), as a field of it."""
    if shift.dim() > len(shape):
        raise FoldRefused(law, f"{tuple(shift.shape)} makes {shape} larger")
    full = shift.reshape(*(1,) * (len(shape) - shift.dim()), *shift.shape)
    one = one_of_batch(law, full)
    for ours, theirs in zip(one.shape, shape[1:], strict=True):
        if ours != 1 and theirs is None:
            raise FoldRefused(law, f"a map of {tuple(one.shape)} for a size that depends on the input")
        if ours not in (1, theirs):
            raise FoldRefused(law, f"{tuple(shift.shape)} makes {shape} larger")
    return Field(maps=(narrowed(one),))


def one_of_batch(law: str, value: Tensor) -> Tensor:
    """A constant (N, ...) without its batch. Raises FoldRefused for one that differs within it."""
    first = value[:1]
    if len(value) != 1 and not bool((value == first).all()):
        raise FoldRefused(law, "the constant differs within the batch")
    return first[0]


def parts(node: Node) -> tuple[Node, ...]:
    """The node that a result was taken out of, which goes with it: BatchNorm's."""
    return (cast(Node, node.args[0]),) if node.target is operator.getitem else ()
