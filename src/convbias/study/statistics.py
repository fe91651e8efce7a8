"""Means with error bars, over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import extra

with extra("study"):
    from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and the half width of its interval; None where one value alone leaves it unknown."""

    mean: float
    half_width: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval says that there is a difference.

        A width of 0 says nothing: counts of wrong answers repeat by chance when the seeds are few.
        """
        return self.half_width is not None and 0 < self.half_width < abs(self.mean)


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
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    return Estimate(mean, quantile * deviation / math.sqrt(n))


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """``values − reference``, pair by pair: what the seeds have in common drops out.

    >>> paired_difference([1.5, 9.5], [1.0, 9.0])
    Estimate(mean=0.5, half_width=0.0)
    """
    return estimate([v - r for v, r in zip(values, reference, strict=True)])
