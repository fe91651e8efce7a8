"""Convolutions in a graph as values, and values as layers again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ..affine import AffineConv, Field, average_pool, tied
from ..geometry import Geometry
from ..ops.call import BY_LABEL
from ..tying import parse
from ..tying.labels import gather

aten = torch.ops.aten
Value = Callable[[object], Tensor | None]

# Dimensions, and whether transposed.
KINDS: dict[Any, tuple[int, bool]] = {
    **{getattr(aten, f"conv{d}d").default: (d, False) for d in (1, 2, 3)},
    **{getattr(aten, f"conv{d}d").padding: (d, False) for d in (1, 2, 3)},
    aten.conv_transpose1d.default: (1, True),
    aten.conv_transpose2d.input: (2, True),
    aten.conv_transpose3d.input: (3, True),
}
POOLS: dict[Any, int] = {
    aten.avg_pool1d.default: 1,
    aten.avg_pool2d.default: 2,
    aten.avg_pool3d.default: 3,
}
OURS = torch.ops.convbias.convolution.default


def read(node: Node, value: Value) -> tuple[AffineConv, str] | None:
    """The convolution that ``node`` is, in float64, and the name of its weight; None for anything else.

    A convolution whose weight is computed from the input, or that an activation follows within the op, is
    none.
    """
    if node.target is OURS:
        return _ours(node, value)
    if node.target in POOLS:
        return _pool(node)
    if node.target not in KINDS:
        return None
    dims, transposed = KINDS[node.target]
    words = given(node)
    weight, bias = value(words["weight"]), words.get("bias")
    level = None if bias is None else value(bias)
    if weight is None or (bias is not None and level is None):
        return None
    geometry = Geometry.of(
        dims,
        tuple(weight.shape[2:]),
        _each(words.get("stride", 1), dims),
        words["padding"] if isinstance(words.get("padding"), str) else _each(words.get("padding", 0), dims),
        _each(words.get("dilation", 1), dims),
        transposed=transposed,
        output_padding=_each(words.get("output_padding", 0), dims),
    )
    field = Field() if level is None else tied(level, dims)
    return AffineConv(weight, geometry, words.get("groups", 1), field), _name(node, words["weight"])


def _ours(node: Node, value: Value) -> tuple[AffineConv, str] | None:
    _, weight_node, biases, spelling, stride, padding, dilation, mode, transposed, more, groups, act = (
        node.args
    )
    weight = value(weight_node)
    parameters = [value(bias) for bias in biases]  # pyright: ignore
    known = tuple(p for p in parameters if p is not None)
    if weight is None or act or len(known) < len(parameters):
        return None
    dims = weight.dim() - 2
    geometry = Geometry(
        tuple(weight.shape[2:]),
        tuple(stride),  # pyright: ignore
        tuple(zip(padding[::2], padding[1::2], strict=True)),  # pyright: ignore
        tuple(dilation),  # pyright: ignore
        str(mode),
        bool(transposed),
        tuple(more),  # pyright: ignore
    )
    if spelling == BY_LABEL:
        field = Field(maps=(gather(known[0], known[1].long()),))
    else:
        field = Field.of(parse(str(spelling)), known, dims)
    return AffineConv(weight, geometry, int(groups), field), _name(node, weight_node)  # pyright: ignore


def _pool(node: Node) -> tuple[AffineConv, str] | None:
    """Average pooling over windows that count their padding, or have none."""
    dims = POOLS[node.target]
    words = given(node)
    padding = _each(words.get("padding", 0), dims)
    if uncounted(node):
        return None
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not isinstance(value.shape[1], int):
        return None
    kernel = _each(words["kernel_size"], dims)
    stride = _each(words.get("stride") or kernel, dims)
    return average_pool(value.shape[1], dims, kernel, stride, padding, torch.float64), f"{node.name}.weight"


def uncounted(node: Node) -> str:
    """Why windows of average pooling are not all of one weight; "" where they are."""
    words = given(node)
    if words.get("ceil_mode"):
        return "its last windows are smaller (ceil_mode)"
    if words.get("divisor_override") is not None:
        return "it sets the divisor"
    counted = words.get("count_include_pad", True) or not any(
        _each(words.get("padding", 0), POOLS[node.target])
    )
    return "" if counted else "it leaves its padding out of the count"


def is_uneven(conv: AffineConv) -> bool:
    """Whether it pads its sides differently, which a layer cannot."""
    return any(before != after for before, after in conv.geometry.pads)


def _name(node: Node, weight: Any) -> str:
    """Of the weight: its own, or one after the node where it is computed."""
    return str(weight.target) if weight.op == "get_attr" else f"{node.name}.weight"


def given(node: Node) -> dict[str, Any]:
    """The operator's arguments by their names, as far as they are given."""
    operator: Any = node.target
    names = [argument.name for argument in operator._schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _each(number: int | Sequence[int], dims: int) -> tuple[int, ...]:
    if isinstance(number, int):
        return (number,) * dims
    return tuple(number) * (dims if len(number) == 1 else 1)
