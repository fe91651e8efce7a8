"""Layers that own convolutions run, and what holds of all of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

import convbias
from convbias.ops import native
from convbias.ops.layout import channels_last
from layer_cases import expected, gradients

# A way, what a layer is made of, and the sides of its input.
Made = tuple[str, dict[str, Any], tuple[int, ...]]
KINDS: dict[int, Any] = {1: convbias.Conv1d, 2: convbias.Conv2d, 3: convbias.Conv3d}


@contextmanager
def using(instructions: str) -> Iterator[None]:
    """Own kernels of another instruction set meanwhile."""
    before = native.instructions()
    native.use(instructions)
    try:
        yield
    finally:
        native.use(before)


def named(case: Made) -> str:
    return f"{case[0]}-{case[2]}-{'-'.join(f'{k}={v}' for k, v in case[1].items())}"


def made(case: Made, bias: str, activation: str | None = None, last: bool = True) -> tuple[Any, Tensor]:
    """The layer, with a bias that is nowhere 0, and two inputs; in channels_last where torch has it."""
    _, options, sides = case
    (into, out), options = options["channels"], {k: v for k, v in options.items() if k != "channels"}
    options = {"kernel_size": 3, **options}
    kind = KINDS[len(sides)]
    size = kind(into, out, bias=False, **options).geometry().output_size(sides)
    layer = kind(into, out, bias=bias, output_size=size, activation=activation, **options)
    for name, parameter in layer.named_parameters():
        if name != "weight":
            torch.nn.init.normal_(parameter)
    x = torch.randn(2, into, *sides)
    if last and len(sides) > 1:
        layer, x = layer.to(memory_format=channels_last(x)), x.to(memory_format=channels_last(x))
    return layer, x


def exact(layer: Any, x: Tensor) -> Tensor:
    return expected(copy.deepcopy(layer).double(), x.double())


def assert_gradients(layer: Any, x: Tensor, atol: float) -> list[Tensor]:
    """Output and gradients are the definition's; those of input and parameters."""
    double = copy.deepcopy(layer).double()
    input, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    y, wanted = layer(input), expected(double, wide)
    assert_close(y.double(), wanted, rtol=1e-5, atol=atol)
    # Where relu's slope jumps, rounding decides on which side a number is.
    double.activation = None
    away = expected(double, wide).detach().abs() > 1e-4
    y, wanted = y * away, wanted * away
    found = gradients(y, layer, input)
    for mine, theirs in zip(found, gradients(wanted, double, wide), strict=True):
        assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
    return found


def assert_second_gradients(layer: Any, x: Tensor) -> None:
    """The gradients of the gradients are those of torch's own kernels."""
    leaves = [x.requires_grad_(), *layer.parameters()]
    found = []
    for name in ("auto", "aten"):
        with convbias.backend(name):
            y = layer(x)
            first = torch.autograd.grad(y.square().mean(), leaves, create_graph=True)
            found.append(torch.autograd.grad(torch.stack([(g * g).sum() for g in first]).sum(), leaves))
    assert_close(*found, rtol=1e-3, atol=1e-4)
