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

_chosen: ContextVar[str | None] = ContextVar("convbias_backend", default=None)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Within it, calls run by torch's kernels alone (``"aten"``), or by convbias's own wherever they can.

    ``"native"`` takes the own kernels even where torch's are measured to be as fast; ``"auto"``, which is
    what holds without it, takes what is faster. The variable CONVBIAS_BACKEND says the same for a process.

    Raises ValueError for another name.

    >>> import torch, convbias
    >>> layer = convbias.Conv2d(1, 2, 3, bias="untied", output_size=(4, 4))
    >>> with torch.no_grad(), backend("aten"):
    ...     y = layer(torch.zeros(1, 1, 6, 6))
    """
    token = _chosen.set(_checked(name, "backend"))
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen() -> str:
    """The backend in force: the innermost ``with``'s, else the environment's, else "auto"."""
    return _chosen.get() or _of_environment()


@functools.cache
def _of_environment() -> str:
    value = os.environ.get(VARIABLE)
    return _checked(value, VARIABLE) if value else "auto"


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source}={name!r}: must be one of {', '.join(BACKENDS)}")
    return name
