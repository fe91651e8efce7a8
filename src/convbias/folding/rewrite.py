"""Changed convolutions become layers of an ordinary module again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node, Tracer
from torch.fx.graph import CodeGen, _PyTreeCodeGen
from torch.nn import Module, Parameter
from torch.utils import _pytree as pytree

from ..affine import AffineConv
from ..affine.parallel import evened
from ..errors import ShapeError
from ..geometry import Site
from ..nn import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from ..nn.convnd import ConvNd
from ..ops.layout import channels_last, is_channels_last
from ..tying import Tying, Untied, parse
from . import chains
from .casts import implicit
from .convolutions import KINDS, is_uneven, read
from .graph import Network, layer_name
from .kernels import pays
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
# What a layer of convbias's does after its convolution: by operator, and what else it is given.
INSIDE: dict[Any, dict[tuple[Any, ...], str]] = {
    aten.relu.default: {(): "relu"},
    aten.relu6.default: {(): "relu6"},
    aten.hardtanh.default: {(0.0, 6.0): "relu6"},
    aten.gelu.default: {(): "gelu", ("none",): "gelu", ("tanh",): "gelu_tanh"},
    aten.silu.default: {(): "silu"},
    aten.leaky_relu.default: {(): "leaky_relu", (0.01,): "leaky_relu"},
    aten.hardswish.default: {(): "hardswish"},
    aten.sigmoid.default: {(): "sigmoid"},
    aten.tanh.default: {(): "tanh"},
}
TIED = parse("tied")
TAPS = ("tap", "c + tap")
# Tyings that suit images of any size.
UNBOUND = ("none", "tied", *TAPS)
# In units of the dtype's precision and of the filter's terms: what those that cancel each other leave.
ROUNDING = 4


def bias_of(
    conv: AffineConv, input_size: tuple[int, ...] | None, dtype: torch.dtype
) -> tuple[Tying, tuple[Tensor, ...]]:
    """The smallest tying in which a layer has the bias, up to ``dtype``'s rounding, and its parameters."""
    tying, parameters = conv.smallest(input_size)
    if repr(tying) in ("none", "tied") or input_size is None:
        return tying, parameters
    field = conv.bias.at(conv.site(input_size))
    level = field.flatten(1).mean(1)
    rest = (field.flatten(1) - level[:, None]).abs().amax(1)
    rounding = ROUNDING * torch.finfo(dtype).eps * conv.bias.power.sqrt()
    if bool((rest <= rounding).all()):
        return TIED, (level,)
    # The padding is a step before the layer, to which its zeros are the image's.
    return (Untied(), (field,)) if is_uneven(conv) and repr(tying) in TAPS else (tying, parameters)


def for_a_layer(conv: AffineConv, input_size: tuple[int, ...] | None) -> AffineConv:
    """``conv`` as one that a layer can be.

    Sides that are padded differently are padded before it. A tap bias, which has to know the padding, is
    written out where the size is known; where any is taken, the sides have to be alike.
    """
    bends = input_size is None and is_uneven(conv) and repr(conv.smallest()[0]) in TAPS
    return evened(conv) if bends else conv


def written(network: Network, own: bool = False) -> GraphModule:
    """The network's module, with a layer for each convolution that was changed, and nothing unused.

    ``own``: those that convbias's kernels are faster for become its layers, with the sum and the activation
    after them inside.
    """
    module, graph = network.module, network.module.graph
    implicit(network.casts)
    taken = {node for node in network.nodes if own and _can_be_own(network, node)}
    made = [node for node in network.nodes if node in taken | network.changed]
    layers = {node: _layer(network, node, own and pays(network, node)) for node in made}
    for node in (*layers, *(node for node in network.padded if node not in layers)):
        rest = () if node in layers else node.args[1:]
        node.args = (_padded(network, node, node in layers), *rest)
    for node in reversed(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    for node, layer in layers.items():
        name = _free(module, layer_name(network.names[node]))
        module.add_submodule(name, layer)
        with graph.inserting_before(node):
            called = graph.call_module(name, (input_of(node),))
        called.meta = dict(node.meta)
        node.replace_all_uses_with(called)
        graph.erase_node(node)
        if own and isinstance(layer, ConvNd):
            _take_inside(called, layer)
    graph.eliminate_dead_code()
    of_any_layout(module)
    _in_place(module)
    module.delete_all_unused_submodules()
    _drop_unread(module)
    if own:
        chains.join(module)
    graph.lint()
    module.recompile()
    return _ordinary(network)


def _can_be_own(network: Network, node: Node) -> bool:
    """Whether a convolution that nothing changed can be a layer by itself."""
    conv = network.convolutions.get(node)
    if node.target not in KINDS or conv is None or is_uneven(conv) or network.shares(node):
        return False
    return pays(network, node)


def _take_inside(called: Node, layer: ConvNd) -> None:
    """The sum that alone reads the layer's result, and the activation behind it, become the layer's own."""
    user = _only_user(called)
    if user is not None and user.target is aten.add.Tensor and not user.kwargs:
        other = next((node for node in user.args if node is not called), None)
        if isinstance(other, Node) and _alike(called, other) and _alike(other, user):
            with called.graph.inserting_before(user):
                summed = called.graph.call_module(str(called.target), (*called.args, other))
            summed.meta = dict(user.meta)
            user.replace_all_uses_with(summed)
            called.graph.erase_node(user)
            called.graph.erase_node(called)
            called, user = summed, _only_user(summed)
    if user is None:
        return
    more = (*user.args[1:], *user.kwargs.values())
    activation = INSIDE.get(user.target, {}).get(more)
    if activation is not None:
        layer.activation = activation
        user.replace_all_uses_with(called)
        called.graph.erase_node(user)


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _alike(one: Node, other: Node) -> bool:
    """Whether the values of two nodes have the same shape and type."""
    mine, theirs = one.meta.get("val"), other.meta.get("val")
    if not isinstance(mine, Tensor) or not isinstance(theirs, Tensor):
        return False
    return mine.shape == theirs.shape and mine.dtype == theirs.dtype


@final
@dataclass(frozen=True)
class Sizes:
    """A check of a module's inputs before it runs: the least and the largest size of every axis.

    torch.export's own takes longer than a small convolution.
    """

    ranges: tuple[tuple[tuple[int, int], ...], ...]

    @cached_property
    def _least(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(low for low, _ in ranges) for ranges in self.ranges)

    def __call__(self, module: Module, inputs: tuple[Any, ...]) -> None:
        if tuple(x.shape for x in inputs) == self._least:
            return
        for i, (x, ranges) in enumerate(zip(inputs, self.ranges, strict=False)):
            fits = [low <= size <= high for size, (low, high) in zip(x.shape, ranges, strict=False)]
            if len(x.shape) != len(ranges) or not all(fits):
                sizes = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in ranges)
                rule = f"the network was folded for ({sizes}); name other sizes in dynamic_shapes"
                raise ShapeError(f"inputs[{i}]", tuple(x.shape), rule.replace(str(sys.maxsize), "any"))


def _ordinary(network: Network) -> GraphModule:
    """An exported module that changes its mode, which does nothing here, and can be pickled."""
    module = network.module
    for name in ("train", "eval"):
        vars(module).pop(name, None)
    # Export's hooks are slow, and for inputs that are modules.
    module._forward_pre_hooks.clear()
    module._forward_hooks.clear()
    _own_parameters(module)
    _call_plainly(module)
    given = [node for node in module.graph.nodes if node.op == "placeholder"]
    module.register_forward_pre_hook(Sizes(tuple(map(network.ranges, given))))
    # Unpickling traces the code again, for which export's own tracer is not made.
    vars(module)["_tracer_cls"] = Tracer
    return module.eval()


def _drop_unread(module: GraphModule) -> None:
    """Leave out the parameters and buffers that no node reads any more."""
    read = {str(node.target) for node in module.graph.nodes if node.op in ("get_attr", "call_module")}
    parameters = module.named_parameters(remove_duplicate=False)
    for name, _ in (*parameters, *module.named_buffers(remove_duplicate=False)):
        path, _, last = name.rpartition(".")
        if not read.intersection(accumulate(name.split("."), "{}.{}".format)):
            delattr(module.get_submodule(path), last)


def _own_parameters(module: GraphModule) -> None:
    """Copies of what the network holds as well, and all of it frozen: to train a part would be chance."""
    copies: dict[int, Tensor] = {}
    for part in module.modules():
        for kind in (part._parameters, part._buffers):
            for name, value in kind.items():
                if value is not None:
                    made = copies.setdefault(id(value), value.detach().clone())
                    kind[name] = Parameter(made, False) if kind is part._parameters else made  # pyright: ignore


def _call_plainly(module: GraphModule) -> None:
    """Take the inputs and give the outputs as they are: export takes apart and puts together structures.

    That would take as long as a small operator. Outputs of classes stay export's.
    """
    codegen: Any = module.graph._codegen
    if not isinstance(codegen, _PyTreeCodeGen):
        return
    takes, gives = codegen.pytree_info.in_spec, cast(pytree.TreeSpec, codegen.pytree_info.out_spec)
    given, named = takes.children()
    if named.children() or not all(spec.is_leaf() for spec in given.children()) or not _is_plain(gives):
        return
    end = module.graph.output_node()
    leaves: Any = end.args[0]
    with module.graph.inserting_before(end):
        end.args = (_structured(module, gives, iter(leaves)),)
    module.graph.set_codegen(CodeGen())
    module.recompile()


def _structured(module: GraphModule, spec: pytree.TreeSpec, leaves: Iterator[Any]) -> Any:
    """The output ``spec`` of ``leaves``: a call for each dict and list: torch.fx has its own types."""
    if spec.is_leaf():
        return next(leaves)
    parts = tuple(_structured(module, child, leaves) for child in spec.children())
    if spec.type is tuple:
        return parts
    pairs = tuple(zip(spec.context, parts, strict=True)) if spec.type is dict else parts
    made = module.graph.call_function(cast(Any, spec.type), (pairs,))
    # Unpickling traces the code again: this stays a call.
    made.meta["is_wrapped"] = True
    return made


def _is_plain(spec: pytree.TreeSpec) -> bool:
    plain = spec.is_leaf() or spec.type in (tuple, list, dict)
    return plain and all(map(_is_plain, spec.children()))


def of_any_layout(module: GraphModule) -> None:
    """Views become reshapes: export has seen the example's memory alone, and channels_last is another."""
    for node in module.graph.nodes:
        if node.target is aten.view.default:
            node.target = aten.reshape.default


def _in_place(module: GraphModule) -> None:
    """Write activations and sums onto fresh results that nobody else reads, as the network may have done."""
    for node in module.graph.nodes:
        if node.target is aten.add.Tensor and not node.kwargs and not _is_fresh(node.args[0], node):
            first, second = node.args
            node.args = (second, first) if _is_fresh(second, node) else node.args
        if node.target in IN_PLACE and _is_fresh(node.args[0], node):
            node.target = IN_PLACE[node.target]


def _is_fresh(source: object, node: Node) -> bool:
    """Whether ``node`` alone reads ``source``, a result of its own memory that is like ``node``'s.

    Where networks are trained, an activation reads its result again.
    """
    if not isinstance(source, Node) or len(source.users) > 1:
        return False
    if not _alike(source, node):
        return False
    if source.op == "call_module":
        layer = cast(GraphModule, source.graph.owning_module).get_submodule(str(source.target))
        return not (isinstance(layer, ConvNd) and layer.activation)
    return source.target in FRESH


def _free(module: GraphModule, name: str) -> str:
    """``name``, or one like it where something at that place is still read."""
    used = {str(node.target) for node in module.graph.nodes if node.op in ("get_attr", "call_module")}
    while any(target == name or target.startswith(f"{name}.") for target in used):
        name += "_"
    return name


def _padded(network: Network, node: Node, layered: bool) -> Node:
    """The convolution's input, padded where it cannot do that itself; a layer can if its sides are even."""
    source, geometry = input_of(node), network.convolutions[node].geometry
    if layered and not is_uneven(network.convolutions[node]):
        return source
    # A convolution that stays as it was goes on to pad with zeros of its own.
    known = None if layered else read(node, network.value)
    own = ((0, 0),) * geometry.dims if known is None else known[0].geometry.pads
    pads = [(p - a, q - b) for (p, q), (a, b) in zip(geometry.pads, own, strict=True)]
    around = [side for pair in reversed(pads) for side in pair]
    mode = "constant" if geometry.padding_mode == "zeros" else geometry.padding_mode
    with network.module.graph.inserting_before(node):
        return network.module.graph.call_function(aten.pad.default, (source, around, mode))


def _layer(network: Network, node: Node, own: bool) -> Module:
    conv, dtype = network.convolutions[node], node.meta["val"].dtype
    geometry, size = conv.geometry, network.space(input_of(node))
    tying, parameters = bias_of(conv, size, dtype)
    pads = tuple(before for before, _ in geometry.pads)
    if is_uneven(conv):
        pads = (0,) * geometry.dims
    plain = repr(tying) in ("none", "tied") and not own
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
    if _was_channels_last(network, node):
        layer.to(memory_format=channels_last(layer.weight))
    return layer.eval()


def _was_channels_last(network: Network, node: Node) -> bool:
    """Whether the network's weight at ``node`` lies so: torch would turn another at every call."""
    weight = network.constants.get(cast(Node, node.args[1])) if node.target in KINDS else None
    return weight is not None and weight.dim() > 3 and is_channels_last(weight)


def parts_of(conv: AffineConv) -> list[Tensor]:
    """What the bias is the sum of."""
    taps = [] if conv.bias.tap is None else [conv.bias.tap]
    others = [parameter for _, parameters in conv.bias.others for parameter in parameters]
    return [*conv.bias.maps, *taps, *others]
