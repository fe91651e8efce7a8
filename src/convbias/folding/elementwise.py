"""Elementwise affine maps in a graph: ``s·x + t``, in all its spellings."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.fx import Node

from .convolutions import given
from .graph import Network

aten = torch.ops.aten
BY_THE_BATCH = (
    aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit.no_stats,
    aten._native_batch_norm_legit_functional.default,
)
BY_THE_IMAGE = (aten.group_norm.default, aten.layer_norm.default, aten.instance_norm.default)
FACTORS = (aten.mul.Tensor, aten.div.Tensor)
STEPS = (aten.addcmul.default, aten.addcdiv.default)


@final
@dataclass(frozen=True, eq=False)
class Elementwise:
    """``scale·input + shift``, each None, or a constant that broadcasts over (N, C, *space)."""

    input: Node
    scale: Tensor | None = None
    shift: Tensor | None = None


def read(node: Node, network: Network) -> Elementwise | None:
    """The affine map that ``node`` is, or None."""
    if node in network.constants or node.op != "call_function":
        return None
    if node.target is operator.getitem:
        return _batch_norm(node, network)
    reader = READERS.get(node.target)
    return None if reader is None else reader(node, network)


def unknown(node: Node, network: Network) -> tuple[Node, str] | None:
    """For a node that would be an affine map if it were constant: its input, and why it is not."""
    source = node.args[0] if node.args and node not in network.constants else None
    if node.target is operator.getitem and isinstance(source, Node) and source.target in BY_THE_BATCH:
        return cast(
            Node, source.args[0]
        ), "its statistics are the batch's: it is in training mode, or keeps none"
    if node.target in FACTORS and isinstance(source, Node) and len(node.args) == 2:
        if isinstance(node.args[1], complex):
            return source, "the factor is a complex number"
        return source, "the factor is no constant: it depends on the input, or is written to"
    if node.target in BY_THE_IMAGE and isinstance(source, Node):
        return source, "its statistics are each image's own"
    return None


def _batch_norm(node: Node, network: Network) -> Elementwise | None:
    """``(x − mean)/√(var + ε)·weight + bias``: the first result of BatchNorm in eval mode."""
    source, index = cast(Node, node.args[0]), node.args[1]
    if source.target is not aten._native_batch_norm_legit_no_training.default or index != 0:
        return None
    x, *statistics, _, epsilon = source.args
    return _with_statistics(x, statistics, epsilon, network)


def _instance_norm(node: Node, network: Network) -> Elementwise | None:
    """The same where it has statistics of its own, and does not take each image's."""
    x, *statistics, by_the_image, _, epsilon, _ = node.args
    return None if by_the_image else _with_statistics(x, statistics, epsilon, network)


def _with_statistics(x: Any, statistics: list[Any], epsilon: Any, network: Network) -> Elementwise | None:
    if not isinstance(x, Node) or not isinstance(epsilon, float):
        return None
    weight, bias, mean, variance = map(network.value, statistics)
    if mean is None or variance is None:
        return None
    scale = (variance + epsilon).rsqrt() * (1.0 if weight is None else weight)
    shift = (0.0 if bias is None else bias) - mean * scale
    axes = (-1, *(1,) * (len(network.shape(x)) - 2))
    return Elementwise(x, scale.reshape(axes), shift.reshape(axes))


def _sum(sign_first: float, sign_second: float) -> Callable[[Node, Network], Elementwise | None]:
    def read_sum(node: Node, network: Network) -> Elementwise | None:
        first, second = node.args[:2]
        if node.target is aten.rsub.Scalar:
            first, second = second, first
        factor = network.value(given(node).get("alpha", 1))
        known = network.value(first), network.value(second)
        if factor is None or (known[0] is None) == (known[1] is None):
            return None
        a, b = torch.tensor(sign_first).double(), sign_second * factor
        if known[1] is not None and isinstance(first, Node):
            return Elementwise(first, None if sign_first == 1 else a, b * known[1])
        if known[0] is not None and isinstance(second, Node):
            return Elementwise(second, None if b == 1 else b, a * known[0])
        return None

    return read_sum


def _product(node: Node, network: Network) -> Elementwise | None:
    first, second = node.args[:2]
    for x, other in ((first, second), (second, first)):
        factor = network.value(other)
        if factor is not None and isinstance(x, Node) and network.value(x) is None:
            return Elementwise(x, factor)
    return None


def _quotient(node: Node, network: Network) -> Elementwise | None:
    x, divisor = node.args[0], network.value(node.args[1])
    if divisor is None or not isinstance(x, Node) or "rounding_mode" in node.kwargs:
        return None
    return Elementwise(x, 1 / divisor)


def _step(node: Node, network: Network) -> Elementwise | None:
    """``a + v·b·c`` or ``a + v·b/c``, one of them the input."""
    first, second, third = cast(tuple[Node, Node, Node], node.args)
    a, b, c = map(network.value, node.args)
    times, divides = network.value(node.kwargs.get("value", 1)), node.target is aten.addcdiv.default
    if times is None or (c is None and divides):
        return None
    c = 1 / c if c is not None and divides else c
    if a is None:
        return None if b is None or c is None else Elementwise(first, None, times * b * c)
    if b is None:
        return None if c is None else Elementwise(second, times * c, a)
    return Elementwise(third, times * b, a) if c is None else None


def _between(node: Node, network: Network) -> Elementwise | None:
    """``(1 − w)·a + w·b``, one of both the input."""
    first, second = node.args[:2]
    a, b, weight = (network.value(argument) for argument in node.args[:3])
    if weight is None or (a is None) == (b is None):
        return None
    if b is not None:
        return Elementwise(cast(Node, first), 1 - weight, weight * b)
    return None if a is None else Elementwise(cast(Node, second), weight, (1 - weight) * a)


def _opposite(node: Node, network: Network) -> Elementwise | None:
    (x,) = node.args
    return Elementwise(x, torch.tensor(-1.0).double()) if isinstance(x, Node) else None


READERS: dict[Any, Callable[[Node, Network], Elementwise | None]] = {
    aten.add.Tensor: _sum(1, 1),
    aten.add.Scalar: _sum(1, 1),
    aten.sub.Tensor: _sum(1, -1),
    aten.sub.Scalar: _sum(1, -1),
    aten.rsub.Scalar: _sum(1, -1),
    aten.mul.Tensor: _product,
    aten.mul.Scalar: _product,
    aten.div.Tensor: _quotient,
    aten.div.Scalar: _quotient,
    aten.neg.default: _opposite,
    aten.instance_norm.default: _instance_norm,
    **dict.fromkeys(STEPS, _step),
    aten.lerp.Scalar: _between,
    aten.lerp.Tensor: _between,
}
