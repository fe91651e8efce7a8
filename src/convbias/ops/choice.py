"""Which kernels may run: what the environment and the code say of it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

BACKENDS = ("auto", "aten", "native")
VARIABLE = "CONVBIAS_BACKEND"

# For fewer numbers what goes on around a kernel takes longer than the kernel saves (benchmarks/bench_ops.py).
SMALL = 16384
# So have so few outputs where a gradient is recorded: Python is called on the way back again.
SMALL_STEP = 200_000
# And so many times as many of a single image.
ALONE = 5


def is_small(numbers: int, channels: int, filters: int) -> bool:
    """Whether an image of so many ``numbers``, and what ``filters`` make of it, are too few for that."""
    return numbers < SMALL and numbers * filters < SMALL * channels


_chosen: ContextVar[str | None] = ContextVar("convbias_backend", default=None)
_winograd: ContextVar[bool] = ContextVar("convbias_winograd", default=True)


@contextmanager
def backend(name: str | None = None, *, winograd: bool | None = None) -> Iterator[None]:
    """Within it, calls run by torch's kernels alone (``"aten"``), or by convbias's own wherever they can.

    ``"native"`` takes the own kernels even where torch's are measured to be as fast; ``"auto"``, which is
    what holds without it, takes what is faster. The variable CONVBIAS_BACKEND says the same for a process.
    By torch's kernels a NaN or an infinity stays in the windows that read it; Winograd's algorithm spreads it
    over a tile of the output, and a convolution into few filters over some neighbours.

    ``winograd=False`` keeps convolutions as they are written (3×3, of volumes too, and three taps in a row),
    whose rounding errors are up to three times smaller than by Winograd's algorithm (of an input's gradient,
    four times; of a weight's from few outputs, six times). What is not given stays as it is.

    Raises ValueError for another name and where nothing is given, TypeError for a ``winograd`` that is
    neither True nor False.

    >>> import torch, convbias
    >>> layer = convbias.Conv2d(1, 2, 3, bias="untied", output_size=(4, 4))
    >>> with torch.no_grad(), backend("aten"):
    ...     y = layer(torch.zeros(1, 1, 6, 6))
    """
    if name is None and winograd is None:
        raise ValueError(
            f"backend(): nothing is chosen; give one of {', '.join(BACKENDS)}, or winograd=False"
        )
    if not isinstance(winograd, bool | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"backend(winograd={winograd!r}): must be True, False or None")
    by_name = _chosen.set(_chosen.get() if name is None else _checked(name, "backend"))
    by_way = _winograd.set(_winograd.get() if winograd is None else winograd)
    try:
        yield
    finally:
        _chosen.reset(by_name)
        _winograd.reset(by_way)


def chosen() -> str:
    """The backend in force: the innermost ``with``'s, else the environment's, else "auto"."""
    return _chosen.get() or _of_environment()


def winograd() -> bool:
    """Whether convolutions may go by Winograd's algorithm."""
    return _winograd.get()


@functools.cache
def _of_environment() -> str:
    value = os.environ.get(VARIABLE)
    return _checked(value, VARIABLE) if value else "auto"


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source}={name!r}: must be one of {', '.join(BACKENDS)}")
    return name
