"""Layers of convbias's that follow one another are called as one."""

from __future__ import annotations

from operator import getitem
from typing import cast

from torch.fx import GraphModule, Node

from ..nn.chained import Chained, Turn
from ..nn.conv import Conv2d

NAME = "chain"


def join(module: GraphModule) -> None:
    """Call layers that stand one after another, two at least, by one module; they stay where they are."""
    for number, run in enumerate(_runs(module)):
        _join(module, run, f"{NAME}_{number}")


def _runs(module: GraphModule) -> list[list[Node]]:
    runs: list[list[Node]] = [[]]
    for node in module.graph.nodes:
        if node.op == "get_attr":
            continue
        if node.op == "call_module" and type(module.get_submodule(str(node.target))) is Conv2d:
            runs[-1].append(node)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) > 1]


def _join(module: GraphModule, run: list[Node], name: str) -> None:
    graph, members = module.graph, {node: i for i, node in enumerate(run)}
    given = list(dict.fromkeys(x for node in run for x in node.all_input_nodes if x not in members))
    numbers = {node: i for i, node in enumerate((*given, *run))}
    wanted = [node for node in run if any(user not in members for user in node.users)]
    paths = [str(node.target).split(".") for node in run]
    parts = list(dict.fromkeys(first for first, *_ in paths))
    turns = [
        Turn(parts.index(first), tuple(rest), *(numbers[cast(Node, x)] for x in node.args))
        for node, (first, *rest) in zip(run, paths, strict=True)
    ]
    while name in dict(module.named_children()):
        name += "_"
    module.add_submodule(name, Chained(turns, len(given), [numbers[node] for node in wanted]))
    with graph.inserting_after(run[-1]):
        called = graph.call_module(name, (tuple(given), ()))
    with graph.inserting_before(called):
        called.args = (tuple(given), tuple(map(graph.get_attr, parts)))
    with graph.inserting_after(called):
        for i, node in reversed(list(enumerate(wanted))):
            part = graph.call_function(getitem, (called, i))
            part.meta = dict(node.meta)
            node.replace_all_uses_with(part)
    for node in reversed(run):
        graph.erase_node(node)
