"""A study's numbers as people read them: all with the same digits after the point."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, final

from .statistics import Estimate, Interval

# Beyond these powers of ten all numbers have the power in common: 1.234e-06.
SMALLEST, LARGEST = -4, 6
# float32 knows no more.
SIGNIFICANT = 7


@final
@dataclass(frozen=True)
class Digits:
    """``decimals`` digits after the point, in units of ``10 ** exponent``."""

    decimals: int = 3
    exponent: int = 0

    @classmethod
    def of(cls, errors: Iterable[float], differences: Iterable[float] = ()) -> Self:
        """Three digits of the largest error or more, and two of the largest difference.

        >>> Digits.of([2.173, 1.504], [-0.669]).one(2.173)
        '2.173'
        >>> Digits.of([0.05]).one(0.0123456), Digits.of([3e-6]).one(2e-6), Digits.of([280.0], [2e-4]).one(280)
        ('0.0123', '2.000e-06', '280.0000')
        """
        order = _order(errors)
        apart = _order(differences)
        exponent = 0 if SMALLEST <= order < LARGEST else order
        wanted = max(3, 2 - order + exponent, 1 - apart + exponent)
        return cls(min(wanted, max(3, SIGNIFICANT - 1 - order + exponent)), exponent)

    def one(self, value: float, sign: str = "") -> str:
        """A single number; ``sign`` + shows that of positive ones too."""
        return self._plain(value, sign) + self._power

    def estimate(self, value: Estimate, sign: str = "") -> str:
        """The mean ± its half width, where that is known."""
        if value.half_width is None:
            return self.one(value.mean, sign)
        both = f"{self._plain(value.mean, sign)} ± {self._plain(value.half_width)}"
        return f"({both}){self._power}" if self.exponent else both

    def interval(self, value: Interval | None) -> str:
        """The two ends."""
        return "" if value is None else f"{self.one(value.low, '+')} … {self.one(value.high, '+')}"

    @property
    def _power(self) -> str:
        return f"e{self.exponent:+03d}" if self.exponent else ""

    def _plain(self, value: float, sign: str = "") -> str:
        return f"{value / 10.0**self.exponent:{sign}.{self.decimals}f}"


def _order(values: Iterable[float]) -> int:
    """The power of ten of the largest; 0 where all are 0."""
    largest = max(map(abs, values), default=0.0)
    return math.floor(math.log10(largest)) if largest else 0
