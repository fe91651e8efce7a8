"""What two networks are compared on."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

STATISTICS = ("running_mean", "running_var")


def cases(examples: Sequence[Tensor], sizes: Sequence[tuple[int, ...]]) -> Iterator[tuple[str, list[Tensor]]]:
    """Inputs of the shapes ``sizes``, by name: random ones, constants, impulses at corners and edges.

    Whole numbers other than bytes may be indices, and are as in the examples.
    """
    generator = torch.Generator().manual_seed(0)
    like = list(zip(examples, sizes, strict=True))
    yield "random", [_random(x, size, generator) for x, size in like]
    yield "large", [_random(x, size, generator, 10.0) for x, size in like]
    yield "zeros", [_constant(x, size, 0) for x, size in like]
    yield "ones", [_constant(x, size, 1) for x, size in like]
    for place in places(max((len(size) for size in sizes), default=0) - 2):
        named = " ".join(place) or "all"
        yield f"impulse at {named}", [_impulse(x, size, place) for x, size in like]


def places(dims: int) -> Iterator[tuple[str, ...]]:
    """The corners, the middles of the edges and the centre of an image.

    >>> list(places(1))
    [('first',), ('middle',), ('last',)]
    """
    if dims > 0:
        yield from itertools.product(("first", "middle", "last"), repeat=dims)


def resized(example: Tensor, size: tuple[int, ...]) -> Tensor:
    """``example`` repeated and cut to ``size``."""
    times = [-(-n // m) if m else 1 for n, m in zip(size, example.shape, strict=True)]
    return example.repeat(times)[tuple(slice(n) for n in size)] if example.dim() else example


def randomised(model: Module, seed: int = 0) -> Module:
    """A copy of ``model`` whose normalisations have random statistics, weights and biases.

    Fresh ones, of mean 0 and variance 1, hide a wrong folding.

    >>> norm = randomised(torch.nn.BatchNorm2d(2))
    >>> bool((norm.running_mean != 0).all()), bool((norm.running_var != 1).all())
    (True, True)
    """
    changed, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in changed.modules():
            mean, variance = (getattr(module, name, None) for name in STATISTICS)
            if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
                continue
            mean.copy_(torch.randn(mean.shape, generator=generator))
            variance.copy_(0.5 + 1.5 * torch.rand(variance.shape, generator=generator))
            for name in ("weight", "bias"):
                parameter = getattr(module, name, None)
                if isinstance(parameter, Tensor):
                    parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return changed


def _random(example: Tensor, size: tuple[int, ...], generator: torch.Generator, scale: float = 1.0) -> Tensor:
    if example.is_floating_point():
        return (scale * torch.randn(size, generator=generator, dtype=torch.float64)).to(example.dtype)
    if example.dtype == torch.uint8:
        return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    return resized(example, size)


def _constant(example: Tensor, size: tuple[int, ...], value: int) -> Tensor:
    free = example.is_floating_point() or example.dtype == torch.uint8
    return torch.full(size, value, dtype=example.dtype) if free else resized(example, size)


def _impulse(example: Tensor, size: tuple[int, ...], place: tuple[str, ...]) -> Tensor:
    x = _constant(example, size, 0)
    if x.dim() != len(place) + 2 or not (x.is_floating_point() or x.dtype == torch.uint8):
        return x
    where: Any = tuple(
        {"first": 0, "middle": n // 2, "last": -1}[p] for p, n in zip(place, size[2:], strict=True)
    )
    x[(slice(None), slice(None), *where)] = 1
    return x
