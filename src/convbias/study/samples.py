"""Samples, inputs with their targets: whole tensors, or any ``torch.utils.data.Dataset``."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ..errors import DataError

# Inputs (N, …) and targets (N, …), or a data set of (input, target) pairs that can be indexed.
Samples = tuple[Tensor, Tensor] | Dataset[Any]

# Of a data set, which may be slow to read, no more than so many are looked at before training.
LOOKED_AT = 1000


def count(samples: Samples) -> int:
    """How many there are."""
    return len(samples[0]) if isinstance(samples, tuple) else len(cast(Any, samples))


def batch(samples: Samples, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Those at ``indices``, stacked."""
    if isinstance(samples, tuple):
        return samples[0][indices], samples[1][indices]
    inputs, targets = default_collate([cast(Any, samples)[i] for i in indices.tolist()])
    return inputs, targets


def some(name: str, samples: Samples, limit: int = LOOKED_AT) -> tuple[Tensor, Tensor]:
    """All of a pair of tensors; of a data set at most ``limit``, spread evenly, read with fixed randomness.

    Raises DataError for a data set whose samples are no pairs of tensors, or that cannot be read.
    """
    if isinstance(samples, tuple):
        return samples
    n = count(samples)
    if n == 0:
        raise DataError(name, "no samples")
    with seeded("samples"):
        try:
            found: Any = batch(samples, torch.linspace(0, n - 1, min(n, limit)).round().long())
        except Exception as error:
            raise DataError(name, f"the data set cannot be read, {type(error).__name__}: {error}") from error
    if not all(isinstance(part, Tensor) for part in found):
        kinds = ", ".join(type(part).__name__ for part in found)
        raise DataError(name, f"samples must be pairs (input, target) of tensors or numbers, not {kinds}")
    return found


def check(name: str, samples: Samples, *, missing_targets: bool = False) -> None:
    """Raise DataError for samples that cannot be trained on.

    ``missing_targets`` allows NaN among the targets, which a loss then leaves out.
    """
    inputs, targets = some(name, samples)
    if len(inputs) != len(targets):
        raise DataError(name, f"{len(inputs)} inputs but {len(targets)} targets; one each is needed")
    if len(inputs) == 0:
        raise DataError(name, "no samples")
    check_finite(name, inputs)
    check_finite(name, targets, missing=missing_targets)
    if missing_targets and targets.isnan().all():
        raise DataError(name, "every target is missing")


def check_finite(name: str, values: Tensor, *, missing: bool = False) -> None:
    """Raise DataError for a value that is NaN or infinite, saying how many and where the first is.

    With ``missing``, NaN is meant.
    """
    if not values.is_floating_point():
        return
    wrong = values.isinf() if missing else ~values.isfinite()
    if wrong.any():
        number, first = int(wrong.sum()), tuple(wrong.nonzero()[0].tolist())
        kind = "infinite" if missing else "NaN or infinite"
        raise DataError(
            name,
            f"{number} of {values.numel()} values are {kind}, the first at index {first}; fill them or cut "
            "them out first",
        )


def checksum(*splits: Samples) -> str:
    """A digest of the samples (of a data set, of those looked at), which tells whether they are the same."""
    digest = hashlib.sha256()
    for samples in splits:
        digest.update(f"{count(samples)}".encode())
        for part in some("samples", samples):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def seeded(*key: object) -> Generator[None]:
    """The generators of torch, numpy and Python at a state made of ``key`` inside, and as before after it.

    A data set may draw its augmentation from any of them.
    """
    python, old = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        seed = number_of(*key)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(old)


def number_of(*key: object) -> int:
    """A seed that is another one for every ``key``.

    >>> number_of("order", 0, 1) == number_of("order", 0, 1) != number_of("order", 1, 0)
    True
    """
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7])
