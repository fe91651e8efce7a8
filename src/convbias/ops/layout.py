"""How an output lies in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Order = tuple[int, ...]


def layout_of(x: Tensor) -> tuple[object, ...]:
    """What changes when numbers are of another kind, or lie otherwise or elsewhere."""
    return x.shape, x.stride(), x.dtype, x.device


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x`` (N, C, H, W) or (N, C, D, H, W) is in channels_last to torch, which goes by the strides.

    Strides of axes of a single number count as well, and the numbers need not be dense.

    >>> import torch
    >>> x = torch.zeros(2, 1, 4, 5)
    >>> is_channels_last(x), is_channels_last(x.to(memory_format=torch.channels_last))
    (False, True)
    """
    sizes, strides = x.shape, x.stride()
    least = strides[1] * sizes[1]
    if least == 0 or len(sizes) not in (4, 5):
        return False
    for axis in range(len(sizes) - 1, 1, -1):
        if strides[axis] < least:
            return False
        least = strides[axis] * sizes[axis]
    return least != strides[1] and strides[0] >= least > 0 < sizes[0]


def channels_last(x: Tensor) -> torch.memory_format:
    """channels_last for as many axes as ``x`` has."""
    return torch.channels_last_3d if x.dim() == 5 else torch.channels_last


def lies_last(x: Tensor) -> bool:
    """Whether the numbers of ``x`` (N, C, *out) are dense, in channels_last."""
    if x.dim() == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    return x.movedim(1, -1).is_contiguous()


def last_strides(sizes: Sequence[int]) -> tuple[int, ...]:
    """The strides of what is (N, C, *out) in channels_last; torch has no name for it of a single axis.

    >>> last_strides((2, 3, 4, 5))
    (60, 1, 15, 3)
    """
    _, channels, *out = sizes
    strides = [channels * math.prod(out[axis:]) for axis in range(len(out) + 1)]
    return (strides[0], 1, *strides[1:])


def first_strides(sizes: Sequence[int]) -> tuple[int, ...]:
    """The strides of what is contiguous.

    >>> first_strides((2, 3, 4, 5))
    (60, 20, 5, 1)
    """
    return tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))


def last_order(dims: int) -> Order:
    """The axes of a sample (C, *out) that lies so, ``dims`` of them in ``out``."""
    return (*range(1, dims + 1), 0)


def form_of(input: Tensor, weight: Tensor) -> torch.memory_format:
    """The layout that torch's own convolution of ``input`` by ``weight`` has."""
    last = is_channels_last(input) or is_channels_last(weight)
    return channels_last(input) if last else torch.contiguous_format


def field_as(form: torch.memory_format, field: Tensor) -> Tensor:
    """A ``field`` (C, *out) as an output in ``form`` lies: to read it across takes as long as to convolve."""
    if form is torch.contiguous_format:
        return field
    sample = field[None]
    return sample.contiguous(memory_format=channels_last(sample))[0]


def memory_order(y: Tensor) -> Order | None:
    """The axes of a sample of ``y`` (N, C, *out) as they lie in memory, outermost first; the channels are 0.

    None where samples are not dense, one after another, in one of torch's two layouts.

    >>> import torch
    >>> memory_order(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
    (1, 2, 0)
    """
    dims = y.dim() - 2
    if y.is_contiguous():
        return tuple(range(dims + 1))
    if y.movedim(1, -1).is_contiguous():
        return last_order(dims)
    return None


def rows(y: Tensor, order: Order) -> Tensor:
    """``y`` as a matrix, a sample in each row, of which nothing is copied where ``order`` is its own."""
    # Not flatten(), which torch does not take for many gradients at once.
    return y.permute(0, *(1 + axis for axis in order)).reshape(len(y), math.prod(y.shape[1:]))


def like_rows(y: Tensor, order: Order) -> Tensor:
    """``y`` with its samples in ``order``: itself where they are."""
    wanted = y.permute(0, *(1 + axis for axis in order))
    return y if wanted.is_contiguous() else _back(wanted.contiguous(), order)


def unflattened(row: Tensor, order: Order, sample: tuple[int, ...]) -> Tensor:
    """One sample's numbers in ``order`` as (C, *out), without a copy."""
    lying = row.view([sample[axis] for axis in order])
    return lying.permute([order.index(axis) for axis in range(len(order))])


def _back(lying: Tensor, order: Order) -> Tensor:
    return lying.permute(0, *(1 + order.index(axis) for axis in range(len(order))))
