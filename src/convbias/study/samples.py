"""Samples, inputs with their targets: whole tensors, or any ``torch.utils.data.Dataset``."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, default_collate

from ..errors import DataError

# Inputs (N, …) and targets (N, …), or a data set of (input, target) pairs that can be indexed.
Samples = tuple[Tensor, Tensor] | Dataset[Any]
S = TypeVar("S", bound=Samples)

# So many samples of a data set are read at a time where all are looked at.
CHUNK = 256


@final
@dataclass(frozen=True)
class Survey:
    """What there is to know of a split before training, from a look at every sample.

    ``inputs`` and ``targets`` are shapes of one, ``classes`` the whole numbers among the targets, ``largest``
    the sample with the largest of them. The faults are what is not finite: of inputs, of targets, and of
    targets of which some may be missing.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    whole: bool
    classes: frozenset[int]
    largest: int
    input_fault: DataError | None
    target_fault: DataError | None
    missing_fault: DataError | None
    digest: str


@final
class Named(Dataset[Any]):
    """A data set by a name, which says which of its samples cannot be read, and is looked through once."""

    def __init__(self, name: str, samples: Any) -> None:
        self.name, self.samples = name, samples
        try:
            self._count = len(samples)
        except Exception as error:
            raise DataError(
                name, f"has no length, {type(error).__name__}: {error}; give it __len__"
            ) from error

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> Any:
        try:
            return self.samples[i]
        except DataError:  # of a data set that this is a part of
            raise
        except (Exception, SystemExit) as error:
            raise DataError(
                self.name,
                f"sample {i} cannot be read, {type(error).__name__}: {error}; mend it, or leave it out",
            ) from error

    @cached_property
    def survey(self) -> Survey:
        """What there is to know of it."""
        return _survey(self.name, self)


def count(samples: Samples) -> int:
    """How many there are."""
    return len(samples[0]) if isinstance(samples, tuple) else len(cast(Any, samples))


def part(samples: S, indices: Tensor) -> S:
    """Those at ``indices``, of the same kind."""
    found: Any = samples
    if isinstance(samples, tuple):
        return cast(S, (samples[0][indices], samples[1][indices]))
    name = samples.name if isinstance(samples, Named) else "samples"
    return cast(S, Named(name, Subset(found, indices.tolist())))


def batch(samples: Samples, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Those at ``indices``, stacked.

    Raises DataError for samples of a data set that are no pairs of tensors, all of one size.
    """
    if isinstance(samples, tuple):
        return samples[0][indices], samples[1][indices]
    name = samples.name if isinstance(samples, Named) else "samples"
    read = [cast(Any, samples)[i] for i in indices.tolist()]
    if not isinstance(read[0], (tuple, list)):
        raise DataError(
            name,
            f"samples must be pairs (input, target), not {type(read[0]).__name__}; return the two of them",
        )
    try:
        inputs, targets = default_collate(read)
    except Exception as error:
        raise DataError(
            name, f"samples must be pairs (input, target), all of one size; {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(inputs, Tensor) and isinstance(targets, Tensor)):
        kinds = f"{type(inputs).__name__}, {type(targets).__name__}"
        raise DataError(name, f"samples must be pairs (input, target) of tensors or numbers, not {kinds}")
    return plain(inputs, targets)


def plain(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both without a history of gradients, and targets that are whole numbers as torch's losses take them."""
    targets = targets.detach()
    whole = not (targets.is_floating_point() or targets.is_complex())
    return inputs.detach(), targets.long() if whole else targets


def survey(name: str, samples: Samples) -> Survey:
    """What there is to know of them. Raises DataError where there are none, or where they cannot be read."""
    return samples.survey if isinstance(samples, Named) else _survey(name, samples)


def _survey(name: str, samples: Samples) -> Survey:
    """From a look at every sample, with fixed randomness."""
    n = count(samples)
    if n == 0:
        raise DataError(name, "no samples")
    digest, classes, largest = hashlib.sha256(f"{n}".encode()), set[int](), (-math.inf, 0)
    faults: list[DataError | None] = [None, None, None]
    missing = True
    inputs = targets = torch.empty(0)
    with seeded("samples"):
        for indices in torch.arange(n).split(CHUNK):
            inputs, targets = batch(samples, indices)
            first = int(indices[0])
            looks = ((inputs, False), (targets, False), (targets, True))
            for i, (values, may_miss) in enumerate(looks):
                faults[i] = faults[i] or _fault(name, values, may_miss, first)
            missing &= bool(targets.isnan().all())
            most = targets.flatten(1).amax(1) if targets.dim() > 1 else targets
            largest = max(largest, (most.nan_to_num(-math.inf).max().item(), first + int(most.argmax())))
            if not targets.is_floating_point():
                classes.update(targets.unique().tolist())
            for values in (inputs, targets):
                _add(digest, values)
    if missing:
        faults[2] = DataError(name, "every target is missing")
    return Survey(
        inputs=tuple(inputs.shape[1:]),
        targets=tuple(targets.shape[1:]),
        whole=not targets.is_floating_point(),
        classes=frozenset(classes),
        largest=largest[1],
        input_fault=faults[0],
        target_fault=faults[1],
        missing_fault=faults[2],
        digest=digest.hexdigest(),
    )


def _fault(name: str, values: Tensor, may_miss: bool, first: int) -> DataError | None:
    try:
        check_finite(name, values, missing=may_miss, first=first)
    except DataError as error:
        return error
    return None


def check(name: str, samples: Samples, *, missing_targets: bool = False) -> None:
    """Raise DataError for samples that cannot be trained on.

    ``missing_targets`` allows NaN among the targets, which a loss then leaves out.
    """
    if isinstance(samples, tuple) and len(samples[0]) != len(samples[1]):
        inputs, targets = map(len, samples)
        raise DataError(name, f"{inputs} inputs but {targets} targets; one each is needed")
    found = survey(name, samples)
    fault = found.input_fault or (found.missing_fault if missing_targets else found.target_fault)
    if fault is not None:
        raise fault


def check_finite(name: str, values: Tensor, *, missing: bool = False, first: int = 0) -> None:
    """Raise DataError for a value that is NaN or infinite, saying how many and where the first is.

    With ``missing``, NaN is meant. ``first`` is the number of the first of the values.
    """
    if not values.is_floating_point():
        return
    wrong = values.isinf() if missing else ~values.isfinite()
    if wrong.any():
        at, *place = wrong.nonzero()[0].tolist()
        kind = "infinite" if missing else "NaN or infinite"
        raise DataError(
            name,
            f"{int(wrong.sum())} of {values.numel()} values are {kind}, the first at index "
            f"{(first + at, *place)}; fill them or cut them out first",
        )


def checksum(*splits: Samples) -> str:
    """A digest of the samples, which tells whether they are the same."""
    digest = hashlib.sha256()
    for samples in splits:
        if isinstance(samples, tuple):
            digest.update(f"{count(samples)}".encode())
            for values in samples:
                _add(digest, values)
        else:
            digest.update(survey("samples", samples).digest.encode())
    return digest.hexdigest()[:16]


def _add(digest: Any, values: Tensor) -> None:
    digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
    digest.update(values.contiguous().numpy())


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
