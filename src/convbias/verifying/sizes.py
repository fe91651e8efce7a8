"""At which sizes two networks are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from .axes import Axes, declared

Sizes = list[tuple[int, ...]]
Legal = Callable[[Sizes], bool]
# How far each axis of each input moves in one step.
Line = tuple[tuple[int, ...], ...]
BATCHES = (1, 3)
SMALLEST = (*range(1, 13), 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
# Each axis has every size up to this one, no two axes the same; then multiples, which some networks need.
EVERY, APART = 12, 5
MULTIPLES = (8, 16, 32)
# Of so many sizes nobody needs to look for those near the example.
MANY = 3
# How much larger than the examples the inputs may be, in numbers.
LARGER, ENOUGH = 8, 2**16


def shapes(
    examples: Sequence[Tensor], axes: Axes | None, takes: Callable[[Sizes], bool]
) -> Iterator[tuple[Sizes, bool]]:
    """The examples' shapes and, where axes are dynamic, others that are declared and the network ``takes``.

    With whether they are for all inputs, or for one: small images of every size are quickly compared.
    """
    own = [tuple(x.shape) for x in examples]
    yield own, True
    if not axes:
        return
    most = max(LARGER * max(map(math.prod, own)), ENOUGH)
    known: dict[tuple[tuple[int, ...], ...], bool] = {}

    def legal(sizes: Sizes) -> bool:
        if sizes == own or min(n for size in sizes for n in size) < 1 or max(map(math.prod, sizes)) > most:
            return False
        if tuple(sizes) not in known:
            known[tuple(sizes)] = declared(sizes, axes) and takes(sizes)
        return known[tuple(sizes)]

    batches = {moving[0].root for moving in axes if 0 in moving}
    images = {axis.root for moving in axes for axis in moving.values()} - batches
    given = list[Sizes]()
    for sizes, whole in (
        *_batches(own, axes, _lines(own, axes, batches), legal),
        *_images(own, axes, _lines(own, axes, images), legal),
    ):
        if sizes not in given:
            given.append(sizes)
            yield sizes, whole


def _batches(own: Sizes, axes: Axes, lines: list[Line], legal: Legal) -> Iterator[tuple[Sizes, bool]]:
    usual = [
        [
            tuple(number if axis == 0 and 0 in moving else n for axis, n in enumerate(size))
            for size, moving in zip(own, axes, strict=True)
        ]
        for number in BATCHES
    ]
    found = [sizes for sizes in usual if legal(sizes)]
    if not found:
        found = [_smallest(own, lines, legal), *_near(own, lines, legal)]
    yield from ((sizes, True) for sizes in found if sizes != own)


def _images(own: Sizes, axes: Axes, lines: list[Line], legal: Legal) -> Iterator[tuple[Sizes, bool]]:
    if not lines:
        return
    alike = (_sized(own, axes, [number]) for number in SMALLEST)
    smallest = _smallest(next(filter(legal, alike), own), lines, legal)
    if smallest != own:
        yield smallest, True
    found = 0
    for numbers in _numbers():
        sizes = _sized(own, axes, numbers)
        if sizes != smallest and legal(sizes):
            yield sizes, found == 0
            found += 1
    if found < MANY:
        for sizes in _near(own, lines, legal):
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


def _lines(own: Sizes, axes: Axes, roots: set[object]) -> list[Line]:
    """Ways to go from ``own``: each root alone, the same axis of all inputs, all by one, all in proportion.

    What a network needs of two sizes at once need not be declared: that they are equal, or one the double.
    """

    def line(step: Callable[[int, int], int]) -> Line:
        return tuple(
            tuple(
                step(i, place) if place in moving and moving[place].root in roots else 0
                for place in range(len(size))
            )
            for i, (size, moving) in enumerate(zip(own, axes, strict=True))
        )

    def times(i: int, place: int) -> int:
        return axes[i][place].times

    found = [
        line(lambda i, place, root=root: (axes[i][place].root == root) * times(i, place)) for root in roots
    ]
    found += [
        line(lambda i, place, axis=axis: (place == axis) * times(i, place))
        for axis in range(max(map(len, own)))
    ]
    found.append(line(times))
    common = math.gcd(*(n for size in line(lambda i, place: own[i][place]) for n in size)) or 1
    found.append(line(lambda i, place: own[i][place] // common))
    return sorted({one for one in found if any(map(any, one))})


def _near(own: Sizes, lines: list[Line], legal: Legal) -> Iterator[Sizes]:
    """On each line the next larger and the next smaller sizes that are legal."""
    for line in lines:
        for sign in (1, -1):
            nearest = (_moved(own, line, sign * step) for step in _steps(own, line))
            yield from list(filter(legal, nearest))[:1]


def _smallest(start: Sizes, lines: list[Line], legal: Legal) -> Sizes:
    """``start``, or less: down each line, by the least step that is legal, as often as it is."""
    for line in lines:
        step = next((step for step in _steps(start, line) if legal(_moved(start, line, -step))), None)
        if step is None:
            continue
        # What is too small is refused, and less of it too.
        times, refused = 1, 1 + max(map(max, start)) // step
        while refused - times > 1:
            middle = (times + refused) // 2
            fits = legal(_moved(start, line, -middle * step))
            times, refused = (middle, refused) if fits else (times, middle)
        start = _moved(start, line, -times * step)
    return start


def _steps(own: Sizes, line: Line) -> list[int]:
    """What may be a step: small numbers, and divisors of the sizes or of one less, as of 14·n and 2·n + 1."""
    moving = {n for size, by in zip(own, line, strict=True) for n, step in zip(size, by, strict=True) if step}
    return sorted({*SMALLEST, *(part for n in moving for m in (n, n - 1) for part in _divisors(m))})


def _divisors(n: int) -> set[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return {*small, *(n // d for d in small)}


def _moved(sizes: Sizes, line: Line, times: int) -> Sizes:
    return [
        tuple(n + times * step for n, step in zip(size, by, strict=True))
        for size, by in zip(sizes, line, strict=True)
    ]
