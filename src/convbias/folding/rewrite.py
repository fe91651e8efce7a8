"""Changed convolutions become layers of an ordinary module again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node, Tracer
from torch.nn import Module, Parameter

from ..affine import AffineConv
from ..geometry import Site
from ..nn import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from ..tying import Tying, Untied, parse
from .casts import implicit
from .convolutions import KINDS
from .graph import Network, layer_name
from .laws import input_of

aten = torch.ops.aten
LAYERS = {
    False: (Conv1d, Conv2d, Conv3d),
    True: (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d),
}
# What torch.nn's layers can hold, they do: they call torch without a detour.
PLAIN = {
    False: (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    True: (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
}
IN_PLACE: dict[Any, Any] = {
    aten.relu.default: aten.relu_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.clamp.default: aten.clamp_.default,
    aten.clamp.Tensor: aten.clamp_.Tensor,
    aten.silu.default: aten.silu_.default,
    aten.hardswish.default: aten.hardswish_.default,
    aten.add.Tensor: aten.add_.Tensor,
}
FRESH: frozenset[Any] = frozenset((*KINDS, aten.linear.default, aten.add.Tensor, aten.add_.Tensor))
TIED = parse("tied")
# Tyings that suit images of any size.
UNBOUND = ("none", "tied", "tap", "c + tap")
# In units of the dtype's precision and the field's size: what two parts that cancel each other leave.
ROUNDING = 4


def bias_of(
    conv: AffineConv, input_size: tuple[int, ...] | None, dtype: torch.dtype
) -> tuple[Tying, tuple[Tensor, ...]]:
    """The smallest tying that has the bias, up to the rounding of ``dtype``, and its parameters."""
    tying, parameters = conv.smallest(input_size)
    if repr(tying) in ("none", "tied") or input_size is None:
        return tying, parameters
    field = conv.bias.at(conv.site(input_size))
    level = field.flatten(1).mean(1)
    rest = (field.flatten(1) - level[:, None]).abs().max()
    size = max(part.abs().max() for part in (field, *parts_of(conv)))
    return (TIED, (level,)) if rest <= ROUNDING * torch.finfo(dtype).eps * size else (tying, parameters)


def written(network: Network) -> GraphModule:
    """The network's module, with a layer for each convolution that was changed, and nothing unused."""
    module, graph = network.module, network.module.graph
    implicit(network.casts)
    layers = {node: _layer(network, node) for node in network.nodes if node in network.changed}
    for node in layers:
        node.args = (_padded(network, node),)
    for node in reversed(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    for node, layer in layers.items():
        name = _free(module, layer_name(network.names[node]))
        module.add_submodule(name, layer)
        with graph.inserting_before(node):
            called = graph.call_module(name, node.args)
        called.meta = dict(node.meta)
        node.replace_all_uses_with(called)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    _in_place(module)
    graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
    return _ordinary(module)


def _ordinary(module: GraphModule) -> GraphModule:
    """An exported module that changes its mode, which does nothing here, and can be pickled.

    What it does for inputs that are modules goes; the check of the inputs' sizes stays.
    """
    for name in ("train", "eval"):
        vars(module).pop(name, None)
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, hook in hooks.items() if hook.__name__ == "<lambda>"]:
            del hooks[key]
    # Unpickling traces the code again, for which export's own tracer is not made.
    vars(module)["_tracer_cls"] = Tracer
    return module.eval()


def _in_place(module: GraphModule) -> None:
    """Write activations and sums onto fresh results that nobody else reads, as the network may have done."""
    for node in module.graph.nodes:
        if node.target is aten.add.Tensor and not node.kwargs and not _is_fresh(node.args[0], node):
            node.args = (node.args[1], node.args[0])
        if node.target in IN_PLACE and _is_fresh(node.args[0], node):
            node.target = IN_PLACE[node.target]


def _is_fresh(source: object, node: Node) -> bool:
    """Whether ``node`` alone reads ``source``, a result of its own memory that is like ``node``'s."""
    if not isinstance(source, Node) or len(source.users) > 1:
        return False
    mine, made = source.meta.get("val"), node.meta.get("val")
    if not isinstance(mine, Tensor) or not isinstance(made, Tensor):
        return False
    alike = mine.shape == made.shape and mine.dtype == made.dtype
    return alike and (source.op == "call_module" or source.target in FRESH)


def _free(module: GraphModule, name: str) -> str:
    """``name``, or one like it where something at that place is still read."""
    used = {str(node.target) for node in module.graph.nodes if node.op in ("get_attr", "call_module")}
    while any(target == name or target.startswith(f"{name}.") for target in used):
        name += "_"
    return name


def _padded(network: Network, node: Node) -> Node:
    """The layer's input: padded with zeros where the sides differ, which a layer cannot."""
    source, pads = input_of(node), network.convolutions[node].geometry.pads
    if not _is_uneven(network.convolutions[node]):
        return source
    around = [side for pair in reversed(pads) for side in pair]
    with network.module.graph.inserting_before(node):
        return network.module.graph.call_function(torch.ops.aten.constant_pad_nd.default, (source, around))


def _layer(network: Network, node: Node) -> Module:
    conv, dtype = network.convolutions[node], node.meta["val"].dtype
    geometry, size = conv.geometry, network.space(input_of(node))
    tying, parameters = bias_of(conv, size, dtype)
    pads = tuple(before for before, _ in geometry.pads)
    if _is_uneven(conv):
        pads = (0,) * geometry.dims
        if repr(tying) not in ("none", "tied") and size is not None:
            tying, parameters = Untied(), (conv.bias.at(conv.site(size)),)
    plain = repr(tying) in ("none", "tied")
    words: dict[str, Any] = {"dilation": geometry.dilation, "groups": conv.groups}
    words["bias"] = repr(tying) == "tied" if plain else tying
    if geometry.transposed:
        words["output_padding"] = geometry.output_padding
    else:
        words["padding_mode"] = geometry.padding_mode
    if size is not None and repr(tying) not in UNBOUND:
        words["output_size"] = Site.of(conv.out_channels, geometry, size).sized()
    layer: Any = (PLAIN if plain else LAYERS)[geometry.transposed][geometry.dims - 1](
        *(conv.in_channels, conv.out_channels, geometry.kernel_size, geometry.stride, pads), **words
    )
    names = ["weight", *(name for name, _ in layer.named_parameters() if name != "weight")]
    for name, value in zip(names, (conv.weight, *parameters), strict=True):
        kept = value.detach().to(dtype).clone(memory_format=torch.contiguous_format)
        setattr(layer, name, Parameter(kept, requires_grad=False))
    return layer.eval()


def _is_uneven(conv: AffineConv) -> bool:
    return any(before != after for before, after in conv.geometry.pads)


def parts_of(conv: AffineConv) -> list[Tensor]:
    """What the bias is the sum of."""
    taps = [] if conv.bias.tap is None else [conv.bias.tap]
    others = [parameter for _, parameters in conv.bias.others for parameter in parameters]
    return [*conv.bias.maps, *taps, *others]
