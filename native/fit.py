"""Where the coefficients in activations.h come from: python native/fit.py (needs numpy and scipy)."""

import numpy as np
from numpy.polynomial import chebyshev
from scipy.special import erfcx


def nodes(count: int) -> np.ndarray:
    """Chebyshev's points, where a fit's largest error is nearly the smallest that there can be."""
    return np.cos(np.pi * (np.arange(count) + 0.5) / count)


def exponential() -> np.ndarray:
    """(e^r − 1 − r) / r² for |r| ≤ ½ ln 2, in powers of r."""
    r = nodes(2000) * 0.347
    series = sum(r**k / float(np.prod(range(1, k + 3))) for k in range(14))
    return chebyshev.cheb2poly(chebyshev.chebfit(nodes(2000), series, 5)) / 0.347 ** np.arange(6)


def tail() -> np.ndarray:
    """(1 + 2a) e^(a²) erfc(a) for a ≥ 0, in powers of t = (a − 2)/(a + 2)."""
    t = nodes(4000)
    a = 2 * (1 + t) / (1 - t)
    values = erfcx(a) * (1 + 2 * a)
    return chebyshev.cheb2poly(chebyshev.chebfit(t, values, 10, w=1 / values))


if __name__ == "__main__":
    for name, coefficients in (("exponential", exponential()), ("tail", tail())):
        print(name, *(f"{c:.8g}" for c in coefficients.astype(np.float32)))
