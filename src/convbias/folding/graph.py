"""A network as a graph without mutation, in which constants are known and convolutions are values."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.nn import Module

from ..affine import AffineConv
from .convolutions import read

# Operators whose result is another one each time, or that do more than compute it.
RANDOM = torch.Tag.nondeterministic_seeded


@final
@dataclass(eq=False)
class Network:
    """A traced network: its graph, and what the laws have found out about the nodes.

    ``convolutions`` are those whose weight and bias are known, as values in float64; ``changed`` are the
    ones that a law has made or changed.
    """

    module: GraphModule
    constants: dict[Node, Tensor]
    convolutions: dict[Node, AffineConv]
    names: dict[Node, str]
    changed: set[Node]

    @property
    def nodes(self) -> Iterator[Node]:
        """In their order, as they are now."""
        return iter(list(self.module.graph.nodes))

    def forget(self, node: Node) -> None:
        """Erase a node that nobody uses."""
        self.convolutions.pop(node, None)
        self.changed.discard(node)
        self.module.graph.erase_node(node)

    def value(self, argument: object) -> Tensor | None:
        """The constant that an argument of a node is, in float64: a number, or a tensor known beforehand."""
        if isinstance(argument, (int, float)) and not isinstance(argument, bool):
            return torch.tensor(float(argument), dtype=torch.float64)
        if isinstance(argument, Node) and argument in self.constants:
            return self.constants[argument].double()
        return None

    def shape(self, node: Node) -> tuple[int | None, ...]:
        """The shape of a node's value, None where it depends on the input."""
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return ()
        return tuple(size if isinstance(size, int) else None for size in value.shape)

    def hint(self, node: Node) -> tuple[int, ...]:
        """The shape of a node's value for the example."""
        value = node.meta["val"]
        return tuple(size if isinstance(size, int) else size.node.hint for size in value.shape)

    def space(self, node: Node) -> tuple[int, ...] | None:
        """The sizes (*space) of a node's value (N, C, *space), or None where one is not known."""
        sizes = self.shape(node)[2:]
        known = tuple(size for size in sizes if size is not None)
        return known if sizes and len(known) == len(sizes) else None


def trace(model: Module, example_inputs: tuple[Any, ...], dynamic_shapes: Any = None) -> Network:
    """The graph of ``model`` in eval mode, in torch's operators without mutation."""
    program = torch.export.export(model, example_inputs, dynamic_shapes=dynamic_shapes, strict=False)
    module = cast(GraphModule, program.run_decompositions({}).module(check_guards=False))
    constants = _constants(module)
    network = Network(module, constants, {}, {}, set())
    for node in network.nodes:
        found = read(node, network.value)
        if found is not None:
            network.convolutions[node], network.names[node] = found
    return network


def _constants(module: GraphModule) -> dict[Node, Tensor]:
    """The nodes whose value no input changes, with it: parameters, buffers, and what is computed from them.

    Sizes that depend on the input are no constants, and nothing is that is computed from one.
    """
    found: dict[Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            found[node] = operator.attrgetter(str(node.target))(module)
        elif node.op == "call_function" and _computable(node, found):
            found[node] = _computed(node, found)
    return {node: value.detach() for node, value in found.items() if isinstance(value, Tensor)}


def _computable(node: Node, known: Mapping[Node, Any]) -> bool:
    if isinstance(node.target, torch._ops.OpOverload) and RANDOM in node.target.tags:
        return False
    return all(argument in known for argument in node.all_input_nodes)


@torch.no_grad()
def _computed(node: Node, known: Mapping[Node, Any]) -> Any:
    arguments, words = map_arg((node.args, node.kwargs), lambda n: known[n])
    return cast(Any, node.target)(*arguments, **words)
