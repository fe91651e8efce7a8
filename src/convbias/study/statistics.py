"""Means with error bars, over seeds."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import MissingExtra

# Its statistics take time and memory to load, which the processes that train can do without.
if importlib.util.find_spec("scipy") is None:
    raise MissingExtra("scipy", "study")

LEVEL = 0.95
# A bootstrap of fewer values, or blocks, is narrower than it should be.
LEAST_SEEDS, LEAST_BLOCKS = 10, 5
RESAMPLES, AT_ONCE = 4000, 100


@dataclass(frozen=True)
class Estimate:
    """A mean and the half width of its interval; None where one value alone leaves it unknown."""

    mean: float
    half_width: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside of the interval; one without width says nothing."""
        return self.half_width is not None and 0 < self.half_width < abs(self.mean)


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``."""

    low: float
    high: float


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of ``values`` and Student's t interval of it, at 95%.

        mean ± t(0.975, n − 1) · s / √n

    >>> estimate([1.0, 2.0, 3.0])
    Estimate(mean=2.0, half_width=2.484...)
    >>> estimate([1.0])
    Estimate(mean=1.0, half_width=None)
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    from scipy import stats

    quantile = float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    return Estimate(mean, quantile * deviation / math.sqrt(n))


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> list[float]:
    """``values − reference``, seed by seed: what the pairs have in common drops out.

    Over the seeds that both have; an interrupted study lacks some.

    >>> paired({0: 1.5, 1: 9.5}, {0: 1.0, 1: 9.0, 2: 4.0})
    [0.5, 0.5]
    """
    return [value - reference[seed] for seed, value in values.items() if seed in reference]


def p_value(values: Sequence[float]) -> float | None:
    """The probability of a mean as far from 0 if there were nothing to find: Student's t, two-sided.

    None for one value, and for values that are all alike: counts of wrong answers repeat by chance when
    the seeds are few, and say nothing then.

    >>> p_value([1.0, 2.0, 3.0])
    0.0741...
    >>> p_value([1.0, 1.0]) is None
    True
    """
    if len(set(values)) < 2:
        return None
    from scipy import stats

    n, found = len(values), estimate(values)
    deviation = math.sqrt(math.fsum((v - found.mean) ** 2 for v in values) / (n - 1))
    return float(2 * stats.t.sf(abs(found.mean) * math.sqrt(n) / deviation, n - 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Each p-value corrected for there being several: the smallest times their number, and so on.

    Whoever calls what is below 5% a finding is wrong in 5% of all studies where there is nothing to find.
    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[i] = largest
    return corrected


def bootstrap(values: Sequence[float]) -> Interval | None:
    """The interval of the mean by drawing the values again, bias-corrected; None below ten values.

    Source: Efron 1987, Better Bootstrap Confidence Intervals.
    """
    if len(values) < LEAST_SEEDS or len(set(values)) < 2:
        return None
    from scipy import stats

    found = stats.bootstrap(
        (np.array(values),), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, rng=0
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def over_blocks(
    error: Callable[[Tensor], Tensor], tallies: Tensor, reference: Tensor, blocks: Tensor
) -> Interval | None:
    """The interval of the difference of two errors by drawing the test split's blocks again.

    ``tallies`` and ``reference`` (seeds, N, M) are what each sample adds to ``error``'s sums, and ``blocks``
    (N,) numbers the blocks of samples that belong together, such as the hours of a day. The same blocks
    are drawn for both, and errors are averaged over the seeds. None for fewer than five blocks.
    """
    numbers, block_of = blocks.unique(return_inverse=True)
    if len(numbers) < LEAST_BLOCKS:
        return None
    sums = torch.stack([tallies, reference]).double()
    shape = (*sums.shape[:2], len(numbers), sums.shape[3])
    by_block = torch.zeros(shape, dtype=torch.float64).index_add_(2, block_of, sums)
    generator = torch.Generator().manual_seed(0)
    differences: list[Tensor] = []
    for _ in range(RESAMPLES // AT_ONCE):
        drawn = torch.randint(len(numbers), (AT_ONCE, len(numbers)), generator=generator)
        times = torch.zeros(AT_ONCE, len(numbers), dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
        ours, others = error(times @ by_block).mean(1)
        differences.append(ours - others)
    low, high = torch.cat(differences).quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2]).double())
    return Interval(low.item(), high.item())
