"""A network's layers, one after another, called as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, groupby, repeat
from operator import is_, itemgetter
from typing import Any, NamedTuple, cast, final

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules import module as everywhere

from ..ops.call import recorded
from ..ops.chain import Chain, Link
from ..ops.choice import chosen, winograd
from ..ops.followers import follower
from ..ops.kept import Recent, lasting
from ..ops.layout import layout_of
from ..ops.own import Convolution
from ..ops.route import may_write, watched
from ..ops.settled import Settled
from .checks import check_residual
from .conv import Conv2d

_flat = chain.from_iterable

# By number: the inputs are 0, 1, …, then each layer's result.
Values = dict[int, Tensor]

# Of a layer's attributes, by what they are: each is asked of every layer before every call, without Python.
_settings_of = itemgetter(
    *("kernel_size", "stride", "padding", "dilation", "padding_mode", "groups", "activation", "tying")
)
_tensors_of = itemgetter("_parameters", "_buffers")
_hooks_of = itemgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Turn(NamedTuple):
    """A layer's turn: where it is in which part, what value it is called with, and what it adds."""

    part: int
    path: tuple[str, ...]
    input: int
    residual: int | None = None

    def layer(self, parts: Sequence[Module]) -> Module:
        found = parts[self.part]
        for name in self.path:
            found = cast(Module, found._modules[name])  # an attribute of a module takes longer
        return found

    @property
    def reads(self) -> list[int]:
        return [self.input] if self.residual is None else [self.input, self.residual]

    def of(self, values: Values) -> tuple[Tensor, Tensor | None]:
        return values[self.input], None if self.residual is None else values[self.residual]


@final
class Chained(Module):
    """Takes inputs and a network's parts, and gives the values that are ``wanted`` of their layers' turns.

    Where no gradient is recorded and nobody follows the calls, the own convolutions among them are called
    by the library: between two of them Python takes longer than a small one. What that needs is kept for as
    long as the layers stay what they are.

    Equivalent to: the layers called one by one.
    """

    def __init__(self, turns: Sequence[Turn], inputs: int, wanted: Sequence[int]) -> None:
        super().__init__()
        self.turns, self.inputs, self.wanted = tuple(turns), inputs, tuple(wanted)
        self._kept = Recent[list[Callable[[Values], None]]]()

    def forward(self, inputs: tuple[Tensor, ...], parts: tuple[Module, ...]) -> tuple[Tensor, ...]:
        values, layers = dict(enumerate(inputs)), [turn.layer(parts) for turn in self.turns]
        steps = self._joined(values, layers) or self._one_by_one(layers)
        if len(values) == self.inputs:
            for step in steps:
                step(values)
        return tuple(values[number] for number in self.wanted)

    def _one_by_one(self, layers: Sequence[Module]) -> list[Callable[[Values], None]]:
        turns = enumerate(zip(self.turns, layers, strict=True), self.inputs)
        return [partial(_take, number, turn, layer) for number, (turn, layer) in turns]

    def _joined(self, values: Values, layers: Sequence[Module]) -> list[Callable[[Values], None]] | None:
        """The steps in which the layers can be called together, or None where each is called by itself.

        Where they are found anew, the values are as well.
        """
        given = list(values.values())
        if follower(given) is not None or watched() or _any_hook_everywhere():
            return None
        own = list(map(vars, layers))
        if not all(map(is_, map(type, layers), repeat(Conv2d))) or any(_flat(map(_hooks_of, own))):
            return None
        held = _flat(kind.values() for kind in _flat(map(_tensors_of, own)))
        tensors = [tensor for tensor in held if tensor is not None]
        if recorded((*given, *tensors)) or any("forward" in of for of in own):
            return None
        key = (tuple(map(layout_of, given)), tuple(map(_settings_of, own)), chosen(), winograd())
        return self._kept.get(lambda _: self._join(values, layers), tensors, key)

    def _join(self, values: Values, layers: Sequence[Any]) -> list[Callable[[Values], None]]:
        """The steps for such inputs, found by calling each layer once; none where one is called otherwise."""
        calls = list[Settled]()
        for number, (turn, layer) in enumerate(zip(self.turns, layers, strict=True), self.inputs):
            input, residual = turn.of(values)
            call = _settled(layer, input, residual)
            if call is None:
                # Whoever calls the layers one by one begins anew.
                for later in range(self.inputs, number):
                    del values[later]
                return []
            calls.append(call)
            values[number] = call(input, residual)
        steps, numbers = list[Callable[[Values], None]](), range(self.inputs, self.inputs + len(layers))
        last = torch.channels_last

        def own(number: int) -> Convolution | None:
            lies = values[number].is_contiguous(memory_format=last)
            return calls[number - self.inputs].convolution if lies else None

        for together, run in groupby(numbers, lambda number: own(number) is not None):
            members = list(run)
            if together and len(members) > 1:
                convolutions = [c for c in map(own, members) if c is not None]
                steps.append(self._run(members, convolutions))
            else:
                steps += [
                    partial(_settle, n, self.turns[n - self.inputs], calls[n - self.inputs]) for n in members
                ]
        return steps

    def _run(self, members: Sequence[int], convolutions: Sequence[Convolution]) -> Callable[[Values], None]:
        """One call for several members, which come one after another."""
        turns = [self.turns[number - self.inputs] for number in members]
        read = [n for turn in turns for n in turn.reads]
        outside = list(dict.fromkeys(n for n in read if n not in members))
        behind = {n for turn in self.turns[members[-1] + 1 - self.inputs :] for n in turn.reads}
        wanted = [n for n in members if n in behind or n in self.wanted]
        place = {number: i for i, number in enumerate((*outside, *members))}
        links = [
            Link(convolution, place[turn.input], None if turn.residual is None else place[turn.residual])
            for turn, convolution in zip(turns, convolutions, strict=True)
        ]
        return partial(_call, Chain(links, len(outside), [place[n] for n in wanted]), outside, wanted)


def _take(number: int, turn: Turn, layer: Module, values: Values) -> None:
    input, residual = turn.of(values)
    values[number] = layer(input) if residual is None else layer(input, residual)


def _settle(number: int, turn: Turn, settled: Settled, values: Values) -> None:
    values[number] = settled(*turn.of(values))


def _call(run: Chain, inputs: Sequence[int], results: Sequence[int], values: Values) -> None:
    values.update(zip(results, run([values[n] for n in inputs]), strict=True))


def _settled(layer: Conv2d, input: Tensor, residual: Tensor | None) -> Settled | None:
    """The layer's call for such tensors, or None where it is not settled what runs it."""
    own = layer._parameters
    if "weight" not in own or not all(name in own for name in layer._bias_names):
        return None
    geometry, weight, bias = layer.geometry(), layer.weight, layer._bias_arguments()
    tensors = [input, weight, *bias]
    if residual is not None:
        check_residual(residual, input, layer.out_channels, geometry)
        tensors.append(residual)
    if (residual is not None and residual.dtype != input.dtype) or not may_write(tensors):
        return None
    return layer.settle(input, weight, bias, geometry) if all(map(lasting, [weight, *bias])) else None


def _any_hook_everywhere() -> bool:
    return bool(everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks)
