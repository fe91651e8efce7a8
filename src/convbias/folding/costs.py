"""What nodes cost on a target: estimated from the bytes that they move and their multiplications."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from ..affine import AffineConv
from .casts import is_free
from .convolutions import POOLS, is_uneven
from .graph import Network, hint_of
from .kernels import own_way
from .laws import Operation, input_of
from .picking import is_part
from .rewrite import bias_of

aten = torch.ops.aten

# What a pass that joins channels costs beside another: channels_last, number by number.
JOINING = 1.5
# Multiplications in the time of a byte: dense, and where each filter has one channel.
DENSE, DEPTHWISE = 6.0, 0.4
# How much sooner than torch's Winograd's convolution is done (benchmarks/bench_ops.py), and of taps in a row.
SOONER, IN_A_ROW = 2.3, 1.3
# Bytes in the time of calling an operator of torch's, some 5 µs.
CALL = 64e3
# What a convolution by oneDNN takes more to begin, in calls; and what torch multiplies without it, but for
# numbers in double: one image of at most so many, by kernels of at most 3, in one group
# (ConvParams::use_mkldnn).
PREPARED, WITHOUT = 4, 20480


@final
@dataclass(frozen=True)
class Target:
    """How the folded network will run, and what a pass over memory costs there beside a plain one.

    ``elementwise`` is of an operator by itself, ``field`` of a bias field that a convolution adds: within the
    kernel in convbias's own. Inductor fuses the one and not the other. ``calls`` are of a fused operator, of
    another one, and of one of convbias's in the place of torch's convolution. ``own`` is whether every
    convolution is a layer of convbias's, with the activation inside.
    """

    elementwise: float
    field: float
    calls: tuple[float, float, float]
    own: bool = False


TARGETS: Final = {
    "eager": Target(1, 0.85, (CALL, CALL, 4 * CALL)),
    "inductor": Target(0.5, 1, (0, CALL, 5 * CALL)),
    "convbias": Target(1, 0, (CALL, CALL, 1.5 * CALL), own=True),
}
FREE: Final[frozenset[Any]] = frozenset(
    (
        *(aten.view.default, aten.transpose.int, aten.permute.default, aten.expand.default),
        *(aten.alias.default, aten.slice.Tensor, aten.select.int, aten.unsqueeze.default, aten.squeeze.dim),
    )
)


@final
@dataclass(frozen=True)
class Cost:
    """Operators, multiplications, bytes moved, and the price that a target puts on them, in bytes."""

    nodes: int = 0
    macs: int = 0
    bytes: int = 0
    price: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            *(self.nodes + other.nodes, self.macs + other.macs),
            *(self.bytes + other.bytes, self.price + other.price),
        )

    def beside(self, after: Cost) -> tuple[str, str, str]:
        """Operators, millions of multiplications and mebibytes moved: of this, and of ``after``."""
        return (
            f"{self.nodes} -> {after.nodes}",
            f"{self.macs / 1e6:,.1f} -> {after.macs / 1e6:,.1f}",
            f"{self.bytes / 2**20:,.1f} -> {after.bytes / 2**20:,.1f}",
        )

    def told(self, after: Cost) -> str:
        """What is saved, in words."""
        return "operators {}, MMAC {}, MiB moved {}".format(*self.beside(after))


def cost(network: Network, nodes: Iterable[Node], target: Target) -> Cost:
    """Of ``nodes`` together."""
    return sum((_of(network, node, target) for node in nodes), Cost())


def alone_read(network: Network, gone: Collection[Node]) -> set[Node]:
    """The constants that those that go alone read: what computes one runs at every call, but for it."""
    found: set[Node] = set()
    waiting = [source for node in gone for source in node.all_input_nodes]
    while waiting:
        node = waiting.pop()
        if node in network.constants and not node.users.keys() - {*gone, *found}:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def cost_of_cast(network: Network, cast: Node, target: Target) -> Cost:
    """Of a cast that arithmetic made of itself, from where a convolution reads it."""
    if cast not in network.casts or not is_free(cast):
        return Cost()
    (source,) = cast.all_input_nodes
    moved = (_size(source) + _size(cast)) * math.prod(network.hint(cast))
    return Cost(1, 0, moved, target.elementwise * moved + target.calls[0])


def _sooner(way: str | None, conv: AffineConv) -> float:
    if way != "winograd":
        return 1
    return IN_A_ROW if math.prod(conv.geometry.kernel_size[-2:-1]) == 1 else SOONER


def cost_of_convolution(network: Network, node: Node, conv: AffineConv, input: Node, target: Target) -> Cost:
    """Of ``node``, were it the convolution ``conv`` of ``input``."""
    made, (batch, _, *space) = network.hint(node), network.hint(input)
    padded = space
    if _pads_apart(conv):
        padded = [n + a + b for n, (a, b) in zip(space, conv.geometry.pads, strict=True)]
    image, given = (batch * conv.in_channels * math.prod(sizes) for sizes in (space, padded))
    macs = made[0] * conv.weight.numel() * math.prod(space if conv.geometry.transposed else made[2:])
    moved = _size(node) * (given + math.prod(made) + conv.weight.numel())
    rate = DEPTHWISE if conv.groups == conv.in_channels > 1 else DENSE
    tying, _ = bias_of(conv, network.space(input), node.meta["val"].dtype)
    plain = repr(tying) in ("none", "tied")
    way = own_way(network, conv, (batch, conv.in_channels, *space)) if target.own else None
    price = moved + macs / (rate * _sooner(way, conv))
    # A field costs nothing in an own convolution alone.
    target = target if way or not target.own else TARGETS["eager"]
    if not plain:
        field = _size(node) * (2 * math.prod(made) + math.prod(made[1:]))
        moved, price = moved + field, price + target.field * field
    by_itself = way or _is_multiplied(conv, (batch, conv.in_channels, *space), node.meta["val"].dtype)
    begins = 0 if by_itself else PREPARED * CALL
    total = Cost(1, macs, moved, price + begins + target.calls[1 if plain else 2])
    if padded is space:
        return total
    copied = _size(node) * (image + given)
    return total + Cost(1, 0, copied, target.elementwise * copied + target.calls[0])


def _is_multiplied(conv: AffineConv, given: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether torch does without oneDNN on an image of shape ``given``."""
    small = given[0] == 1 and math.prod(given) <= WITHOUT
    kernel = (1, *conv.geometry.kernel_size)[-2:]
    return dtype is torch.float64 or (small and conv.groups == 1 and min(kernel) <= 3)


def _pads_apart(conv: AffineConv) -> bool:
    """Whether an operator pads before the convolution, or within its layer."""
    repeats = conv.geometry.padding_mode != "zeros" and any(a or b for a, b in conv.geometry.pads)
    return repeats or is_uneven(conv)


def cost_of_operation(network: Network, node: Node, operation: Operation, target: Target) -> Cost:
    """Of ``node``, did it do ``operation``."""
    if node.target in FREE:
        return Cost()
    shape = network.hint(node) if operation.result is None else hint_of(operation.result)
    read: list[int] = []

    def seen(argument: Any) -> None:
        if isinstance(argument, Node):
            read.append(_size(argument) * math.prod(network.hint(argument)))
        elif isinstance(argument, Tensor):
            read.append(_size(node) * argument.numel())

    pytree.tree_map(seen, operation.arguments)
    moved = sum(read) + _size(node) * math.prod(shape)
    return _passed(operation.operator, moved, target)


def _passed(operator: Any, moved: int, target: Target) -> Cost:
    """Of an ``operator`` by itself that moves so many bytes."""
    slower = JOINING if operator is aten.cat.default else 1
    return Cost(1, 0, moved, slower * target.elementwise * moved + target.calls[0])


def _of(network: Network, node: Node, target: Target) -> Cost:
    conv = network.convolutions.get(node)
    if conv is not None and (node in network.changed or node.target not in POOLS):
        return cost_of_convolution(network, node, conv, input_of(node), target)
    value = node.meta.get("val")
    free = node.target in FREE or node.op != "call_function"
    free = free or (node in network.casts and is_free(node)) or is_part(node)
    if free or not isinstance(value, Tensor):
        return Cost()
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
    read = [n.all_input_nodes[0] if n in network.casts and is_free(n) else n for n in tensors or [node]]
    # What is taken out of several results is as large as what they were made of.
    return _passed(node.target, sum(_size(n) * math.prod(network.hint(n)) for n in (*read, node)), target)


def _size(node: Node) -> int:
    value = node.meta["val"]
    return value.element_size() if isinstance(value, Tensor) else value[0].element_size()
