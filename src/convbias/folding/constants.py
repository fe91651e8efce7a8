"""Which values in a graph no input changes: parameters, buffers, what is made of them or of shapes alone."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

aten = torch.ops.aten
# Operators whose result is another one each time.
RANDOM = torch.Tag.nondeterministic_seeded
# What these fill a tensor with: a number, or the argument that says it.
FILLS: dict[Any, float | str] = {
    aten.ones.default: 1.0,
    aten.ones_like.default: 1.0,
    aten.new_ones.default: 1.0,
    aten.zeros.default: 0.0,
    aten.zeros_like.default: 0.0,
    aten.new_zeros.default: 0.0,
    aten.full.default: "fill_value",
    aten.full_like.default: "fill_value",
    aten.new_full.default: "fill_value",
    aten.fill.Scalar: "value",
    aten.fill.Tensor: "value",
    # Whatever is not written there may be anything.
    aten.empty.memory_format: 0.0,
    aten.empty_like.default: 0.0,
    aten.new_empty.default: 0.0,
}


def constants(module: GraphModule) -> dict[Node, Tensor]:
    """The nodes with a constant value, and the value.

    Where the size of the batch depends on the input, it is 1 in the value, and every image has the same.
    Other sizes that depend on the input make no constants.
    """
    found: dict[Node, Any] = {}
    spread: dict[Node, Tensor] = {}
    written = {node.args[0] for node in module.graph.nodes if node.target is aten.copy_.default}
    for node in module.graph.nodes:
        if node in written:
            continue
        shape = _one_image(node)
        if node.op == "get_attr":
            found[node] = operator.attrgetter(str(node.target))(module)
        elif shape is not None and node.target in FILLS and (fill := _fill(node, found)) is not None:
            into = found if shape == tuple(node.meta["val"].shape) else spread
            into[node] = torch.full(shape, fill, dtype=node.meta["val"].dtype)
        elif node.op == "call_function" and _computable(node, found):
            found[node] = _computed(node, found)
        elif shape is not None and node.target is aten.expand.default and node.args[0] in found:
            spread[node] = found[cast(Node, node.args[0])].expand(shape)
    known = {**{node: value for node, value in found.items() if isinstance(value, Tensor)}, **spread}
    return {node: value.detach() for node, value in known.items()}


def _one_image(node: Node) -> tuple[int, ...] | None:
    """The shape of a node's value with a batch of 1 where that is not known; None where more is unknown."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    first, *rest = (*value.shape,) or (1,)
    if not all(isinstance(size, int) for size in rest):
        return None
    return tuple(value.shape[:0]) if not value.dim() else (first if isinstance(first, int) else 1, *rest)


def depends(node: Node) -> bool:
    """Whether the numbers of a value depend on the input, and not its size alone."""
    if node.target in FILLS or node.target is aten.sym_size.int:
        return False
    random = isinstance(node.target, torch._ops.OpOverload) and RANDOM in node.target.tags
    return node.op == "placeholder" or random or any(map(depends, node.all_input_nodes))


def _fill(node: Node, known: Mapping[Node, Any]) -> float | None:
    """What a tensor is filled with, or None where it depends on the input."""
    fill = FILLS[node.target]
    if not isinstance(fill, str):
        return fill
    names = [argument.name for argument in cast(Any, node.target)._schema.arguments]
    value: Any = {**dict(zip(names, node.args, strict=False)), **node.kwargs}[fill]
    value = known.get(value) if isinstance(value, Node) else value
    return value.item() if isinstance(value, Tensor) else value


def _computable(node: Node, known: Mapping[Node, Any]) -> bool:
    if isinstance(node.target, torch._ops.OpOverload) and RANDOM in node.target.tags:
        return False
    return all(argument in known for argument in node.all_input_nodes)


@torch.no_grad()
def _computed(node: Node, known: Mapping[Node, Any]) -> Any:
    arguments, words = map_arg((node.args, node.kwargs), lambda n: known[n])
    return cast(Any, node.target)(*arguments, **words)
