"""Parts of a network run by themselves, in float64: the proof of a rewriting at its own place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from .graph import Network
from .sizes import Sizes, at

if TYPE_CHECKING:
    from .laws import Site  # some of the laws are proved by evaluation

# Relative to the largest value: what float64 leaves of two ways to compute the same.
ROUNDING = 1e-9


@torch.no_grad()
def evaluate(
    network: Network,
    nodes: Iterable[Node],
    known: dict[Node, Any],
    site: Site | None = None,
    sizes: Sizes | None = None,
) -> dict[Node, Any]:
    """The values of ``nodes``, in their order, from ``known`` ones: after ``site``, at other ``sizes``."""
    values = dict(known)

    def value(node: Node) -> Any:
        node = site.instead.get(node, node) if site else node
        if node not in values:
            known_before = network.constants.get(node)
            values[node] = (
                at(node.meta["val"], sizes)
                if known_before is None
                else _constant(network, node, known_before, sizes)
            )
        return values[node]

    for node in nodes:
        if site is not None and node in site.becomes:
            conv, source = site.becomes[node]
            values[node] = conv(value(source))
        elif site is not None and node in site.rewritten:
            operation = site.rewritten[node]
            values[node] = _in_double(operation.operator(*map_arg(operation.arguments, value)))
        elif node in network.convolutions:
            values[node] = network.convolutions[node](value(cast(Node, node.args[0])))
        else:
            arguments, words = map_arg((node.args, node.kwargs), value)
            values[node] = _in_double(cast(Any, node.target)(*arguments, **words))
    return values


def disagreement(network: Network, site: Site) -> float:
    """How far the outputs of ``site`` are from what they were, relative to their size, on random inputs."""
    order = [node for node in network.nodes if node in site.nodes]
    sources = {source for node in order for source in node.all_input_nodes if source not in site.nodes}
    known = {node: random(network, node) for node in sources if node not in network.constants}
    before = evaluate(network, order, known)
    after = evaluate(network, [node for node in order if node not in site.gone], known, site)
    worst = 0.0
    for node in order:
        read = any(user not in site.nodes for user in node.users) and isinstance(before[node], Tensor)
        if read and (node in site.instead or node not in site.gone):
            expected, found = before[node], after[site.instead.get(node, node)]
            apart = (expected - found).abs().max() / expected.abs().max().clamp(min=1e-30)
            worst = max(worst, apart.item()) if apart.isfinite() else float("inf")
    return worst


def random(network: Network, node: Node, sizes: Sizes | None = None) -> Any:
    """A value such as ``node`` may have."""
    if not isinstance(node.meta.get("val"), Tensor):
        return at(node.meta["val"], sizes)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(network.hint(node, sizes), dtype=torch.float64, generator=generator)


def _constant(network: Network, node: Node, value: Tensor, sizes: Sizes | None) -> Tensor:
    """A constant in float64, for as many images as there are."""
    value = double(value)
    return value.expand(network.hint(node, sizes)) if node.op == "call_function" else value


def _in_double(made: Any) -> Any:
    """What a node makes, which may be a cast."""
    return double(made) if isinstance(made, Tensor) else made


def double(value: Tensor) -> Tensor:
    """In float64, if it is no whole number."""
    return value.double() if value.is_floating_point() else value
