"""How a study's numbers are written, from millionths to thousands of millions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from convbias.study.digits import Digits
from convbias.study.statistics import Estimate, Interval


@pytest.mark.parametrize(
    ("errors", "differences", "one", "estimate", "interval"),
    [
        ([2.0], [-0.5], "2.000", "+2.000 ± 0.200", "-0.200 … +2.000"),
        ([200.0], [20.0], "200.000", "+200.000 ± 20.000", "-20.000 … +200.000"),
        ([0.02], [0.01], "0.0200", "+0.0200 ± 0.0020", "-0.0020 … +0.0200"),
        ([2.0], [0.0002], "2.00000", "+2.00000 ± 0.20000", "-0.20000 … +2.00000"),
        ([2.0], [2e-12], "2.000000", "+2.000000 ± 0.200000", "-0.200000 … +2.000000"),
        ([2e-6, 1e-7], [1e-7], "2.000e-06", "(+2.000 ± 0.200)e-06", "-0.200e-06 … +2.000e-06"),
        ([2e35], [1e34], "2.000e+35", "(+2.000 ± 0.200)e+35", "-0.200e+35 … +2.000e+35"),
        ([0.0], [], "0.000", "+0.000 ± 0.000", "-0.000 … +0.000"),
    ],
)
def test_all_have_the_same_digits(
    errors: Sequence[float], differences: Sequence[float], one: str, estimate: str, interval: str
) -> None:
    digits, largest = Digits.of(errors, differences), errors[0]
    assert digits.one(largest) == one
    assert digits.estimate(Estimate(largest, largest / 10), "+") == estimate
    assert digits.interval(Interval(-largest / 10, largest)) == interval
    assert digits.interval(None) == ""
