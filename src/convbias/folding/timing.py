"""Two networks' times in one interleaved run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Run = Callable[..., object]
ROUNDS, SECONDS = 15, 5.0


@torch.no_grad()
def interleaved(a: Run, b: Run, inputs: Sequence[Tensor]) -> tuple[float, float]:
    """The median seconds of a call of ``a`` and of ``b``, warm and in turn: A B B A …"""
    times: dict[bool, list[float]] = {True: [], False: []}
    started = time.perf_counter()
    for turn in range(-2, ROUNDS):
        for first in (True, False) if turn % 2 else (False, True):
            before = time.perf_counter()
            (a if first else b)(*inputs)
            if turn >= 0:
                times[first].append(time.perf_counter() - before)
        if turn >= 2 and time.perf_counter() - started > SECONDS:
            break
    return statistics.median(times[True]), statistics.median(times[False])
