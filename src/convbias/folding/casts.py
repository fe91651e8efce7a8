"""Casts that arithmetic makes of itself, as in bytes divided by 255: nodes while laws are at work."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten
# Operators that compute in the type of their result, whatever their operands have.
ARITHMETIC: frozenset[Any] = frozenset(
    getattr(getattr(aten, name), kind)
    for name in ("add", "sub", "mul", "div")
    for kind in ("Tensor", "Scalar")
)
TO: Any = aten._to_copy.default
TO_DTYPE: Any = aten.to.dtype


def explicit(module: GraphModule) -> set[Node]:
    """Put a cast before each operand of an elementwise map that has another type than its result.

    What is affine in the cast value is not in the bytes: a convolution reads the cast. The casts.
    """
    casts: set[Node] = set()
    for node in list(module.graph.nodes):
        value = node.meta.get("val")
        if node.target not in ARITHMETIC or not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        for operand in node.all_input_nodes:
            known = operand.meta.get("val")
            if operand.op == "get_attr" or not isinstance(known, Tensor) or known.dtype == value.dtype:
                continue
            with module.graph.inserting_before(node):
                cast = module.graph.call_function(TO, (operand,), {"dtype": value.dtype})
            cast.meta.update(node.meta, val=known.to(value.dtype))
            node.replace_input_with(operand, cast)
            casts.add(cast)
    return casts


def is_of_whole_numbers(node: Node) -> bool:
    """Whether the node casts whole numbers to others, and does nothing else."""
    if node.target is not TO_DTYPE and not (node.target is TO and node.kwargs.keys() == {"dtype"}):
        return False
    made, (source,) = node.meta["val"].dtype, node.all_input_nodes
    known = source.meta["val"].dtype
    return made.is_floating_point and not known.is_floating_point and not known.is_complex


def is_free(cast: Node) -> bool:
    """Whether only arithmetic reads the cast, which makes it of itself."""
    return all(user.target in ARITHMETIC for user in cast.users)


def implicit(casts: set[Node]) -> None:
    """Take the casts out again that arithmetic makes of itself."""
    for cast in casts:
        if is_free(cast):
            cast.replace_all_uses_with(cast.all_input_nodes[0])
