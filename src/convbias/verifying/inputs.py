"""What two networks are compared on."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

STATISTICS = ("running_mean", "running_var")
# Of a table whose rows are tried, and in how many calls.
MOST_ROWS, MOST_CALLS = 2**16, 32


def checked(example_inputs: Sequence[Tensor] | Tensor) -> tuple[Tensor, ...]:
    """The tensors that a network is called with. Raises ValueError for anything else, and for empty ones."""
    if isinstance(example_inputs, Tensor):
        example_inputs = (example_inputs,)
    given: Any = example_inputs
    if not isinstance(given, Sequence) or not given:
        raise ValueError(f"example_inputs={_told(given)}: must be a tensor, or a sequence of tensors")
    for i, x in enumerate(given):
        if not isinstance(x, Tensor):
            raise ValueError(
                f"example_inputs[{i}]={_told(x)}: must be a tensor; let a module of yours give the network "
                "its other arguments"
            )
        if x.is_meta:
            raise ValueError(f"example_inputs[{i}]: is on the device meta, without numbers; give some")
        if not x.numel():
            raise ValueError(
                f"example_inputs[{i}]: is empty, {tuple(x.shape)}; nothing can be computed of it"
            )
    return tuple(given)


def example(size: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Random numbers. Raises ValueError for more of them than there is memory for."""
    try:
        return torch.randn(list(size), generator=generator).to(dtype)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"example_inputs={tuple(size)}: cannot be made, {reason}") from error


def cases(examples: Sequence[Tensor], sizes: Sequence[tuple[int, ...]]) -> Iterator[tuple[str, list[Tensor]]]:
    """Inputs of the shapes ``sizes``, by name: random ones, constants, impulses at corners and edges.

    Whole numbers other than bytes may be indices, and are no larger than in the examples.
    """
    generator = torch.Generator().manual_seed(0)
    like = list(zip(examples, sizes, strict=True))
    yield "random", [_random(x, size, generator) for x, size in like]
    yield "large", [_random(x, size, generator, 10.0) for x, size in like]
    yield "zeros", [_constant(x, size, 0) for x, size in like]
    yield "ones", [_constant(x, size, 1) for x, size in like]
    if any(x.is_floating_point() for x in examples):
        yield "minus ones", [_constant(x, size, -1 if x.is_floating_point() else 1) for x, size in like]
    for place in places(max((len(size) for size in sizes), default=0) - 2):
        named = " ".join(place) or "all"
        yield f"impulse at {named}", [_impulse(x, size, place) for x, size in like]


def counted(examples: Sequence[Tensor], takes: Callable[[list[Tensor]], bool]) -> Iterator[list[Tensor]]:
    """Whole numbers from 0 to the largest that the network ``takes``: every row of a table, if it is one.

    None where no input may be an index, or none is too large.
    """

    def numbered(first: int, step: int, rows: int) -> list[Tensor]:
        return [
            ((first + step * torch.arange(x.numel())) % rows).reshape(x.shape).to(x.dtype)
            if _is_index(x)
            else x
            for x in examples
        ]

    if not any(map(_is_index, examples)):
        return
    low, high = 0, 1
    while high <= MOST_ROWS and takes(numbered(high, 0, high + 1)):
        low, high = high, 2 * high
    while high <= MOST_ROWS and high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(numbered(middle, 0, middle + 1)) else (low, middle)
    if high <= MOST_ROWS:
        at_once = min(x.numel() for x in examples if _is_index(x))
        for first in range(0, min(low + 1, MOST_CALLS * at_once), at_once):
            yield numbered(first, 1, low + 1)


def _is_index(x: Tensor) -> bool:
    return x.dtype in (torch.int64, torch.int32)


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


def statistics_of(model: Module) -> list[tuple[str, torch.Size]]:
    """The normalisations that have statistics, by name, and how many."""
    found = ((name, getattr(module, STATISTICS[0], None)) for name, module in model.named_modules())
    return [(name, mean.shape) for name, mean in found if isinstance(mean, Tensor)]


def _told(value: object) -> str:
    """What a person recognises a wrong argument by."""
    text = repr(value)
    return text if len(text) < 80 else f"a {type(value).__name__}"


def _random(example: Tensor, size: tuple[int, ...], generator: torch.Generator, scale: float = 1.0) -> Tensor:
    if example.is_floating_point():
        return (scale * torch.randn(size, generator=generator, dtype=torch.float64)).to(example.dtype)
    if example.dtype == torch.uint8:
        return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    if example.dtype == torch.bool:
        return torch.rand(size, generator=generator) > 0.5
    if _is_index(example):
        low, high = int(example.min()), int(example.max())
        return torch.randint(low, high + 1, size, generator=generator).to(example.dtype)
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
