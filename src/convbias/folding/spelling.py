"""One spelling for what networks write in several ways, and nothing that changes no value."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .casts import ARITHMETIC, TO
from .constants import depends
from .convolutions import KINDS, given

aten = torch.ops.aten
COPIES = (aten.clone.default, aten.alias.default, aten.detach.default)
# What writes its second argument onto the first, or onto a slice of it.
ONTO = (aten.copy.default, aten.slice_scatter.default)
# Other names of operators, as export's table of decompositions wants them.
SPELLED: dict[Any, Callable[..., Any]] = {
    **{getattr(aten, other).default: aten.cat.default for other in ("concat", "concatenate")},
    **{
        getattr(getattr(aten, other), kind): getattr(getattr(aten, name), kind)
        for other, name in {
            "multiply": "mul",
            "subtract": "sub",
            "divide": "div",
            "true_divide": "div",
        }.items()
        for kind in ("Tensor", "Scalar")
    },
    aten.negative.default: aten.neg.default,
    aten.max.other: aten.maximum.default,
    aten.min.other: aten.minimum.default,
    aten.clip.default: aten.clamp.default,
    aten.clip.Tensor: aten.clamp.Tensor,
    aten.hstack.default: lambda tensors: torch.cat(tensors, min(tensors[0].dim() - 1, 1)),
    aten.channel_shuffle.default: lambda x, groups: (
        x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
    ),
    aten.rsub.Tensor: lambda x, other, alpha=1: torch.sub(other, x, alpha=alpha),
    aten.type_as.default: lambda x, other: x.to(other.dtype),
}
NORM: Any = aten._native_batch_norm_legit_no_training.default
# What takes an image into pieces along an axis that stays.
SPLITS = (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)
# What may have its arguments turned round.
SYMMETRIC = (aten.maximum.default, aten.minimum.default, aten.fmax.default)
POOL: Any = aten.max_pool2d_with_indices.default


def spelled(module: GraphModule) -> None:
    """Rewrite the graph: sizes that are known are numbers, sums of stacks are sums, copies are none.

    A change of layout in front of a convolution goes before the arithmetic that it follows.
    """
    graph = module.graph
    for node in list(graph.nodes):
        _size(node)
        if node.target is aten.cat.default:
            _joined(node)
        _taken(node)
        source = _copied(node)
        if source is not None:
            node.replace_all_uses_with(source)
        elif node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif node.target in (aten.sum.dim_IntList, aten.mean.dim):
            _unstack(node)
        elif node.target in SYMMETRIC and not depends(node.args[0]):
            node.args = node.args[::-1]
        elif node.target is aten.einsum.default:
            _einsum(node)
        elif node.target is operator.getitem and node.args[0].target is POOL and len(node.args[0].users) == 1:
            node.target, node.args = aten.max_pool2d.default, node.args[0].args
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if _is_layout(node) and all(_leads_to_convolutions(user) for user in node.users):
            while _hoist(node):
                pass


def _size(node: Node) -> None:
    """Sizes that export has found to be one number, and only the input says so, are that number."""
    value = node.meta.get("val")
    if isinstance(value, torch.SymInt) and (known := value.node.maybe_as_int()) is not None:
        node.replace_all_uses_with(known)  # pyright: ignore
    if isinstance(value, Tensor) and any(isinstance(n, torch.SymInt) for n in value.shape):
        sizes = [n if isinstance(n, int) else (n.node.maybe_as_int() or n) for n in value.shape]
        node.meta["val"] = value.new_empty_strided(sizes, value.stride())


def _joined(node: Node) -> None:
    """What a concat joins, at once: all of another one that it alone reads, and nothing of what is nothing.

    An empty vector is nothing to torch, whatever shape the others have.
    """
    joined, *axis = cast(tuple[list[Node], Any], node.args)
    parts: list[Node] = []
    for part in joined:
        nested = part.target is aten.cat.default and len(part.users) == joined.count(part) == 1
        inside = nested and _along(part) == _along(node)
        parts += cast(list[Node], part.args[0]) if inside else [part]
    parts = [part for part in parts if part.meta["val"].shape != (0,)]
    if node.meta["val"].dim() > 1 and all(part.meta["val"].dtype == node.meta["val"].dtype for part in parts):
        node.args = (parts, *axis)


def _along(node: Node) -> int:
    axis: Any = given(node).get("dim", 0)
    return axis % max(node.meta["val"].dim(), 1)


def _taken(node: Node) -> None:
    """A part of an image's places that a convolution reads is a slice, also one that it was split into."""
    target, source = node.target, node.args[0] if node.args else None
    if not isinstance(source, Node) or not any(user.target in KINDS for user in node.users):
        return
    if target is operator.getitem and source.target in SPLITS:
        image, axis = cast(Node, source.args[0]), given(source).get("dim", 0)
        sizes = [part.shape[axis] for part in source.meta["val"]]
        index = cast(int, node.args[1]) % len(sizes)
        known = all(isinstance(size, int) for size in sizes)
        if known and axis % image.meta["val"].dim() > 1:
            start = sum(sizes[:index])
            node.target, node.args = aten.slice.Tensor, (image, axis, start, start + sizes[index])
    elif target is aten.index.Tensor:
        *whole, index = cast(list[Node | None], node.args[1])
        one = (
            isinstance(index, Node) and index.meta["val"].dim() == 1 and index.meta["val"].dtype != torch.bool
        )
        if one and not any(whole) and len(whole) > 1:
            node.target, node.args = aten.index_select.default, (source, len(whole), index)


def _copied(node: Node) -> Node | None:
    """What the node is as good as: a copy, a cast or view of what it is already, the whole of a slice."""
    source = node.args[1] if node.target in ONTO and len(node.args) > 1 else next(iter(node.args), None)
    joined = cast(list[Node], source) if node.target is aten.cat.default else []
    if len(joined) == 1:
        (source,) = joined
    if not isinstance(source, Node):
        return None
    if node.target in COPIES and "memory_format" not in node.kwargs and len(node.args) == 1:
        return source
    value, known = node.meta.get("val"), source.meta.get("val")
    whole = node.target is aten.copy.default or node.args[-2:] == (0, sys.maxsize)
    casts = node.target is TO and node.kwargs.keys() <= {"dtype"}
    writes = node.target in (aten.slice.Tensor, *ONTO) and whole
    same = casts or writes or joined or node.target is aten.view.default
    if not same or not isinstance(known, Tensor):
        return None
    alike = isinstance(value, Tensor) and value.shape == known.shape and value.dtype == known.dtype
    return source if alike else None


def _unstack(node: Node) -> None:
    """A sum, or mean, over what was only stacked for it."""
    stack, axes, *rest = node.args
    if not isinstance(stack, Node) or stack.target is not aten.stack.default or rest or node.kwargs:
        return
    parts, axis = cast(list[Node], stack.args[0]), stack.args[1] if len(stack.args) > 1 else 0
    if axes != [axis] or any(part.meta["val"].dtype != node.meta["val"].dtype for part in parts):
        return
    total: Node = parts[0]
    with node.graph.inserting_before(node):
        for part in parts[1:]:
            total = node.graph.call_function(aten.add.Tensor, (total, part))
            total.meta.update(node.meta)
        if node.target is aten.mean.dim:
            total = node.graph.call_function(aten.div.Tensor, (total, len(parts)))
            total.meta.update(node.meta)
    node.replace_all_uses_with(total)


def _einsum(node: Node) -> None:
    """Of one image a change of layout, and with a matrix over its channels a 1×1 convolution."""
    equation, operands = cast(tuple[str, list[Node]], node.args[:2])
    given, _, made = equation.replace(" ", "").partition("->")
    named = sorted(zip(given.split(","), operands, strict=True), key=lambda one: -len(one[0]))
    (letters, image), *others = named
    value: Tensor = node.meta["val"]
    if "." in equation or any(len({*one}) < len(one) for one in (made, letters)):
        return
    if not others and {*made} == {*letters}:
        node.target, node.args = aten.permute.default, (image, [letters.index(one) for one in made])
    if len(others) != 1 or not 2 < len(letters) < 6:
        return
    (((axes, matrix),), channel, filter) = others, letters[1], made[1:2]
    if made != letters[0] + filter + letters[2:] or {*axes} != {channel, filter} or len(axes) != 2:
        return
    weight, known = matrix, matrix.meta["val"]
    sizes = [value.shape[1], image.meta["val"].shape[1]]
    # An axis of one may stand for several.
    if filter in letters or depends(matrix) or not known.is_floating_point() or {*sizes} != {*known.shape}:
        return
    with node.graph.inserting_before(node):
        for operator, arguments in (
            *([] if axes[0] == filter else [(aten.permute.default, [1, 0])]),
            (aten.reshape.default, [*sizes, *[1] * (len(letters) - 2)]),
        ):
            weight = node.graph.call_function(operator, (weight, arguments))
            known = weight.meta["val"] = operator(known, arguments)
    node.target, node.args = getattr(aten, f"conv{len(letters) - 2}d").default, (image, weight)


def _is_layout(node: Node) -> bool:
    if node.target is TO:
        return "memory_format" in node.kwargs and node.args[0].meta["val"].dtype == node.meta["val"].dtype  # pyright: ignore
    copies = node.target is aten.clone.default and "memory_format" in node.kwargs
    return copies or node.target is aten.permute.default


def _leads_to_convolutions(node: Node) -> bool:
    return node.target in KINDS or (_is_layout(node) and all(map(_leads_to_convolutions, node.users)))


def _hoist(layout: Node) -> bool:
    """Move ``layout`` before the arithmetic that it follows, if it follows any."""
    last = cast(Node, layout.args[0])
    made = last
    if last.target is operator.getitem and cast(Node, last.args[0]).target is NORM:
        made = cast(Node, last.args[0])
    order = layout.args[1] if layout.target is aten.permute.default else None
    if (made.target is NORM and order is not None) or made.target not in (NORM, *ARITHMETIC):
        return False
    images = [n for n in made.all_input_nodes if n.meta["val"].shape == last.meta["val"].shape]
    others = [n for n in made.all_input_nodes if n not in images]
    if len(images) != 1 or len(last.users) > 1 or len(made.users) > 1 or any(map(depends, others)):
        return False
    (image,) = images
    graph, value = layout.graph, layout.meta["val"]
    layout.replace_all_uses_with(last)
    if order is not None:
        for other in others:
            made.replace_input_with(other, _permuted(made, other, cast(list[int], order)))
    made.prepend(layout)
    layout.args = (image, *layout.args[1:])
    made.replace_input_with(image, layout)
    layout.meta["val"] = image.meta["val"] if order is None else image.meta["val"].permute(order)
    last.meta["val"] = value
    return not graph.lint()


def _permuted(before: Node, constant: Node, order: list[int]) -> Node:
    """The constant that broadcasts over an image, over the permuted one."""
    shape = constant.meta["val"].shape
    full = [*[1] * (len(order) - len(shape)), *shape]
    with before.graph.inserting_before(before):
        spread = before.graph.call_function(aten.view.default, (constant, full))
        spread.meta["val"] = constant.meta["val"].reshape(full)
        made = before.graph.call_function(aten.permute.default, (spread, order))
        made.meta["val"] = spread.meta["val"].permute(order)
    return made
