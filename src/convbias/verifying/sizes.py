"""At which sizes two networks are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from .inputs import Axes

Sizes = list[tuple[int, ...]]
BATCHES = (1, 3)
SMALLEST = (*range(1, 13), 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
# Each axis has every size up to this one, no two axes the same; then multiples, which some networks need.
EVERY, APART = 12, 5
MULTIPLES = (8, 16, 32)
# How much larger than the examples the inputs may be, in numbers.
LARGER, ENOUGH = 8, 2**16


def shapes(
    examples: Sequence[Tensor], axes: Axes | None, takes: Callable[[Sizes], bool]
) -> Iterator[tuple[Sizes, bool]]:
    """The examples' shapes and, where axes are dynamic, others that the network ``takes``.

    With whether they are for all inputs, or for one: small images of every size are quickly compared.
    """
    own = [tuple(x.shape) for x in examples]
    yield own, True
    if not axes:
        return
    most = max(LARGER * max(map(math.prod, own)), ENOUGH)

    def legal(sizes: Sizes) -> bool:
        return sizes != own and max(map(math.prod, sizes)) <= most and takes(sizes)

    for number in BATCHES:
        sizes = [
            tuple(number if axis == 0 and 0 in moving else n for axis, n in enumerate(size))
            for size, moving in zip(own, axes, strict=True)
        ]
        if legal(sizes):
            yield sizes, True
    if not any(axis for moving in axes for axis in moving):
        return
    alike = (_sized(own, axes, [number]) for number in SMALLEST)
    smallest = next((sizes for sizes in alike if legal(sizes)), None)
    if smallest is not None:
        yield smallest, True
    found = 0
    for numbers in _numbers():
        sizes = _sized(own, axes, numbers)
        if sizes != smallest and legal(sizes):
            yield sizes, found == 0
            found += 1


def _numbers() -> Iterator[list[int]]:
    """Sizes for the first, the second, the third axis."""
    for k in reversed(range(EVERY)):
        yield [1 + (k + APART * axis) % EVERY for axis in range(3)]
    for step in MULTIPLES:
        for k in range(3):
            yield [step * (1 + (k + axis) % 3) for axis in range(3)]


def _sized(own: Sizes, axes: Axes, numbers: Sequence[int]) -> Sizes:
    """``own`` with other numbers for the dynamic axes of images: the same for the same axis of all inputs."""
    return [
        tuple(
            numbers[(axis - 2) % len(numbers)] if axis and axis in moving else n
            for axis, n in enumerate(size)
        )
        for size, moving in zip(own, axes, strict=True)
    ]
