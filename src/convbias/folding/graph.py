"""A network as a graph without mutation, in which constants are known and convolutions are values."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx import GraphModule, Node
from torch.nn import Module, Parameter

from ..affine import AffineConv
from ..verifying.axes import each_input
from .casts import explicit
from .constants import constants
from .convolutions import read
from .sizes import Sizes, at, others
from .spelling import SPELLED, spelled

aten = torch.ops.aten
MODES = ("reflect", "replicate", "circular")


@final
@dataclass(eq=False)
class Network:
    """A traced network: its graph, and what the laws have found out about the nodes.

    ``convolutions`` are those whose weight and bias are known, as values in float64; ``names`` are their
    weights'; ``sizes`` are the ranges of those that the input decides; ``casts`` are those that arithmetic
    makes of itself; ``padded`` are the convolutions that have taken up a padding, ``changed`` those that a
    law has made or changed, ``erased`` what is no longer there; ``forbidden`` are laws that no other one may
    make use of.
    """

    module: GraphModule
    constants: dict[Node, Tensor]
    convolutions: dict[Node, AffineConv]
    names: dict[Node, str]
    sizes: Mapping[Any, Any] = field(default_factory=dict[Any, Any])
    casts: set[Node] = field(default_factory=set[Node])
    padded: set[Node] = field(default_factory=set[Node])
    changed: set[Node] = field(default_factory=set[Node])
    erased: set[Node] = field(default_factory=set[Node])
    forbidden: frozenset[str] = frozenset()

    @property
    def nodes(self) -> Iterator[Node]:
        """In their order, without those that are erased on the way."""
        for node in list(self.module.graph.nodes):
            if node not in self.erased:
                yield node

    def forget(self, node: Node) -> None:
        """Erase a node that nobody uses."""
        self.convolutions.pop(node, None)
        self.changed.discard(node)
        self.padded.discard(node)
        self.casts.discard(node)
        self.erased.add(node)
        self.module.graph.erase_node(node)

    def rewrite(self, node: Node, operator: Any, arguments: tuple[Any, ...]) -> None:
        """Give ``node`` another operator and other arguments; tensors among them become constants.

        One in the place of a parameter that only ``node`` reads takes its name.
        """
        known = {i: argument for i, argument in enumerate(node.args) if isinstance(argument, Node)}

        def placed(i: int, argument: Any) -> Any:
            if isinstance(argument, (list, tuple)):
                return [placed(-1, one) for one in cast(Sequence[Any], argument)]
            if not isinstance(argument, Tensor):
                return argument
            value, old, name = argument.to(node.meta["val"].dtype), known.get(i), f"{node.name}_constant"
            if old is not None and old.op == "get_attr" and len(old.users) == 1:
                name = str(old.target)
            return self._constant(name, value, node)

        made = tuple(placed(i, argument) for i, argument in enumerate(arguments))
        node.target, node.args, node.kwargs = operator, made, {}

    def _constant(self, name: str, value: Tensor, before: Node) -> Node:
        path, _, last = name.rpartition(".")
        holder = self.module.get_submodule(path)
        if isinstance(getattr(holder, last, None), Parameter):
            setattr(holder, last, Parameter(value, requires_grad=False))
        else:
            while hasattr(holder, last):
                last += "_"
            holder.register_buffer(last, value)
        with self.module.graph.inserting_before(before):
            node = self.module.graph.get_attr(f"{path}.{last}" if path else last)
        node.meta["val"] = self.constants[node] = value
        return node

    def label(self, node: Node) -> str:
        """What a person calls the node: the layer it stands in, or else its name in the graph."""
        stack = list(node.meta.get("nn_module_stack", {}).values())
        path, kind = stack[-1] if stack else ("", "")
        # Of a weight that several layers share, export knows one name.
        if node in self.names and not (path and "Conv" in str(kind)):
            return layer_name(self.names[node])
        return path.partition("@")[0] or node.name

    def shares(self, node: Node) -> list[str]:
        """The other nodes that read the convolution's own weight."""
        weight = node.args[1]
        if node in self.changed or not isinstance(weight, Node) or weight not in self.constants:
            return []
        place = self.constants[weight].data_ptr()
        alike = [n for n, value in self.constants.items() if value.data_ptr() == place]
        # To read it as a number does not tie it to anything.
        users = [
            self.label(user)
            for one in alike
            for user in one.users
            if user is not node and user not in self.constants and user.op != "output"
        ]
        return ["another call of it" if user == self.label(node) else user for user in users] if place else []

    def value(self, argument: object) -> Tensor | None:
        """The constant that an argument of a node is, in float64: a number, or a tensor known beforehand."""
        if isinstance(argument, (int, float)) and not isinstance(argument, bool):
            return torch.tensor(float(argument), dtype=torch.float64)
        known = self.constants.get(argument) if isinstance(argument, Node) else None
        return None if known is None or known.is_complex() else known.double()

    def shape(self, node: Node) -> tuple[int | None, ...]:
        """The shape of a node's value, None where it depends on the input."""
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return ()
        return tuple(size if isinstance(size, int) else None for size in value.shape)

    def ranges(self, node: Node) -> tuple[tuple[int, int], ...]:
        """The least and the largest size of each axis of an input. Export holds its least ones to be 2."""
        found: list[tuple[int, int]] = []
        for size in node.meta["val"].shape:
            known = None if isinstance(size, int) else self.sizes.get(size.node.expr)
            low, high = (0, sys.maxsize) if known is None else map(_bounded, (known.lower, known.upper))
            found.append((size, size) if isinstance(size, int) else (low if low > 2 else 0, high))
        return tuple(found)

    def hint(self, node: Node, sizes: Sizes | None = None) -> tuple[int, ...]:
        """The shape of a node's value for the example, or at other sizes."""
        return hint_of(node.meta["val"], sizes)

    @cached_property
    def other_sizes(self) -> list[Sizes]:
        """Sizes that the network takes as well."""
        given = [node.meta["val"] for node in self.nodes if node.op == "placeholder"]
        return others([value for value in given if isinstance(value, Tensor)], self.sizes)

    def space(self, node: Node) -> tuple[int, ...] | None:
        """The sizes (*space) of a node's value (N, C, *space), or None where one is not known."""
        sizes = self.shape(node)[2:]
        known = tuple(size for size in sizes if size is not None)
        return known if sizes and len(known) == len(sizes) else None


def hint_of(value: Tensor, sizes: Sizes | None = None) -> tuple[int, ...]:
    """The shape that a value has for the example, or at other sizes."""
    return tuple(at(size, sizes) for size in value.shape)


def _bounded(bound: Any) -> int:
    return int(bound) if bound < sys.maxsize else sys.maxsize


def layer_name(weight: str) -> str:
    """The layer's own name, from its weight's."""
    return weight.removesuffix(".weight") if weight.endswith(".weight") else f"{weight}_conv"


def trace(
    model: Module | ExportedProgram, example_inputs: tuple[Any, ...], dynamic_shapes: Any = None
) -> Network:
    """The graph of ``model``, in torch's operators without mutation."""
    program = (
        model
        if isinstance(model, ExportedProgram)
        else torch.export.export(
            model, example_inputs, dynamic_shapes=_by_argument(model, dynamic_shapes), strict=False
        )
    )
    with warnings.catch_warnings():
        # torch copies its own tree specs in a way that it warns of.
        warnings.simplefilter("ignore", FutureWarning)
        program = program.run_decompositions(SPELLED)
        _leave_inputs_alone(program)
        module = cast(GraphModule, program.module(check_guards=False))
    spelled(module)
    casts = explicit(module)
    network = Network(module, constants(module), {}, {}, program.range_constraints, casts)
    for node in network.nodes:
        found = read(node, network.value)
        # Without a batch, the axes are others.
        if found is not None and len(network.shape(node)) == found[0].geometry.dims + 2:
            network.convolutions[node], network.names[node] = found
    for node in list(network.convolutions):
        _take_up_padding(network, node)
    return network


def _leave_inputs_alone(program: ExportedProgram) -> None:
    """What a network writes into its inputs, it computes beside them: its outputs are the same."""
    output, made = program.graph.output_node(), program.graph_signature.output_specs
    kept = [i for i, spec in enumerate(made) if spec.kind is not OutputKind.USER_INPUT_MUTATION]
    output.args = (tuple(cast(Sequence[Any], output.args[0])[i] for i in kept),)
    program.graph_signature.output_specs = [made[i] for i in kept]


def _by_argument(model: Module, dynamic_shapes: Any) -> Any:
    """The sizes as torch.export wants them: one entry for each argument, ``*inputs`` being one."""
    kinds = [argument.kind for argument in inspect.signature(model.forward).parameters.values()]
    if dynamic_shapes is None or inspect.Parameter.VAR_POSITIONAL not in kinds:
        return dynamic_shapes
    given, first = each_input(dynamic_shapes), kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*given[:first], tuple(given[first:]))


def _take_up_padding(network: Network, node: Node) -> None:
    """A padding that repeats entries, with which what is affine commutes, becomes the convolution's."""
    conv, pad = network.convolutions[node], cast(Node, node.args[0])
    if pad.target is not aten.pad.default or len(pad.args) < 3 or len(pad.users) > 1:
        return
    x, flat, mode = cast(tuple[Node, list[Any], str], pad.args[:3])
    pads = tuple((flat[i], flat[i + 1]) for i in range(len(flat) - 2, -1, -2))
    whole = len(pads) == conv.geometry.dims and all(isinstance(n, int) and n >= 0 for n in flat)
    own = any(a or b for a, b in conv.geometry.pads)
    if mode in MODES and whole and not own and not conv.geometry.transposed:
        geometry = replace(conv.geometry, pads=pads, padding_mode=mode)
        network.convolutions[node] = replace(conv, geometry=geometry)
        network.padded.add(node)
        node.replace_input_with(pad, x)
        network.forget(pad)
