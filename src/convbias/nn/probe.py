"""How a network calls its convolutions: found by running a copy of it on example inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

Size = tuple[int, ...]


@dataclass
class Calls:
    """The calls of one layer: the (input, output) sizes seen, and use of its tensors from outside."""

    sizes: set[tuple[Size, Size]] = field(default_factory=set[tuple[Size, Size]])
    used_outside: bool = False


def probe(model: Module, names: Sequence[str], example_inputs: object) -> dict[str, Calls]:
    """Run a copy of ``model`` in eval mode and record the calls of the layers called ``names``.

    ``example_inputs`` is a tensor, a sequence of positional arguments or a mapping of keyword ones. Neither
    the model nor torch's generators are touched.
    """
    twin = copy.deepcopy(model).eval()
    watch = _Watch()
    found = {name: Calls() for name in names}
    for name, calls in found.items():
        watch.attach(twin.get_submodule(name), calls)
    devices = {t.device.index for t in twin.parameters() if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(d or 0 for d in devices)), torch.no_grad(), watch:
        call_with(twin, example_inputs)
    return found


def call_with(model: Callable[..., Any], example_inputs: object) -> Any:
    """``model`` called with ``example_inputs``, however those are given."""
    if isinstance(example_inputs, Mapping):
        return model(**example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return model(*example_inputs)
    return model(example_inputs)


class _Watch(TorchFunctionMode):
    """Sees every torch function, and so every use of a layer's tensors that is not by the layer itself."""

    def __init__(self) -> None:
        super().__init__()
        self._owners: dict[int, list[Calls]] = {}
        self._running: list[Calls] = []

    def attach(self, layer: Module, calls: Calls) -> None:
        for parameter in layer.parameters(recurse=False):
            self._owners.setdefault(id(parameter), []).append(calls)
        layer.register_forward_pre_hook(lambda _, __: self._running.append(calls))
        layer.register_forward_hook(lambda _, args, output: self._left(layer, args, output))

    def _left(self, layer: Any, args: tuple[Any, ...], output: Any) -> None:
        dims = layer.weight.dim() - 2
        sizes = (tuple(args[0].shape[-dims:]), tuple(output.shape[-dims:]))
        self._running.pop().sizes.add(sizes)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        owners = [calls for t in tree_leaves((args, kwargs)) for calls in self._owners.get(id(t), ())]
        foreign = not any(calls is running for calls in owners for running in self._running)
        # Questions such as .shape or .dtype use nothing; what yields a tensor does.
        if owners and foreign and any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            for calls in owners:
                calls.used_outside = True
        return result
