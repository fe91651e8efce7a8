"""The control: a tied network that is wider, with as many parameters as the largest under any tying."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..tying import Tying
from .bench import Bench, parameters
from .jobs import Job
from .recipe import Recipe
from .samples import seeded

# A network of so many times the width costs about the square of it.
WIDEST = 8


def wide_enough(bench: Bench, tyings: Sequence[Tying], recipe: Recipe) -> tuple[int | None, str]:
    """The width at which the count is nearest to the largest of all tyings', or None; and why."""
    base = bench.base_width
    if base is None:
        return None, (
            "The control with as many parameters was not run: the factory takes no width with a default. "
            "A gain may be that of any larger network."
        )
    goal = max(parameters(bench.retied(Job(tying, 0, recipe))) for tying in tyings)

    def size(width: int) -> int:
        with seeded("width"):
            return parameters(bench.make_model(width=width))

    step = _step(size, base)
    if step is None:
        return None, (
            f"The control with as many parameters was not run: the factory fails for any width but {base}."
        )
    low, high = base, base + step
    while size(high) < goal:
        low, high = high, base + 2 * (high - base)
        if low >= WIDEST * base:
            return None, (
                f"The control with as many parameters was not run: it would be more than {WIDEST} times as "
                f"wide as the network, and cost {WIDEST**2} times as much."
            )
    while high - low > step:
        middle = low + step * ((high - low) // step // 2)
        low, high = (middle, high) if size(middle) < goal else (low, middle)
    width = min((low, high), key=lambda width: abs(size(width) - goal))
    if width == base:
        return None, (
            "The control with as many parameters was not run: no tying has so many more than tied that a "
            "wider network comes nearer."
        )
    return width, (
        f"The control is a tied network of width {width} instead of {base}, with {size(width):,} parameters, "
        f"as near as can be to the {goal:,} of the largest. Its start is its own."
    )


def _step(size: Callable[[int], int], base: int) -> int | None:
    """By how much the width can grow: a power of two, or ``base`` itself, for groups may forbid others."""
    for step in (*(2**n for n in range(base.bit_length()) if 2**n < base), base):
        try:
            size(base + step)
            size(base + 2 * step)
        except Exception:
            continue
        return step
    return None
