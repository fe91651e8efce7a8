"""``module:factory`` for data: any ``torch.utils.data.Dataset``."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset

from ...errors import DataError
from .. import samples
from ..arguments import samples as split
from ..data import SPLITS, Data
from ..factories import called
from ..models import Shape
from ..samples import Named, Samples, Survey
from ..tasks import Classification, Regression, Segmentation, Task
from .parts import with_validation


def load(spec: str, task: str, *, missing: bool, moves: bool) -> Data:
    """What the function returns: (train, test), (train, validation, test), or one data set to be split.

    Each is a Dataset that can be indexed, of pairs (input, target), or a pair of tensors. Nothing is
    normalised: that is the data set's own affair. Every sample is read once.

    Raises DataError for anything else.
    """
    given = _parts(spec, called("data", spec))
    parts = with_validation(given)
    found = {name: samples.survey(f"{spec}, {name}", part) for name, part in parts.items()}
    for name in ("train", "test"):
        if samples.count(parts[name]) < 2:
            raise DataError(spec, f"{name} has one sample; a study needs two at least, and many more to tell")
    inputs = found["train"].inputs
    if len(inputs) < 2:
        raise DataError(spec, f"inputs must be (C, *space), not {inputs}")
    kind, shape = _task(spec, task, list(found.values()), missing, moves)
    sizes = ", ".join(f"{samples.count(split)} for {name}" for name, split in parts.items())
    notes = ["The data set's own samples, not normalised."]
    if len(parts) > len(given):
        notes.append(
            "An eighth of the training split is set apart for validation; return (train, validation, test) "
            "to choose it."
        )
    return Data(
        spec,
        f"samples of {'×'.join(map(str, inputs))}: {sizes}",
        kind,
        parts["train"],
        parts.get("validation"),
        parts["test"],
        shape,
        notes=tuple(notes),
    )


def _parts(spec: str, made: Any) -> dict[str, Samples]:
    if isinstance(made, Dataset):
        if isinstance(made, IterableDataset):
            raise DataError(spec, "an IterableDataset cannot be shuffled alike for every tying; index it")
        whole = Named(spec, made)
        n = len(whole)
        if n < 10:
            raise DataError(spec, f"{n} samples; the three splits need 10 at least")
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        cuts = order.tensor_split([round(0.7 * n), round(0.8 * n)])
        return {name: samples.part(whole, cut) for name, cut in zip(SPLITS, cuts, strict=True)}
    if not isinstance(made, (tuple, list)) or not 2 <= len(made) <= 3:
        raise DataError(
            spec,
            f"must return a Dataset, (train, test) or (train, validation, test), not {type(made).__name__}",
        )
    names = SPLITS if len(made) == 3 else ("train", "test")
    if any(isinstance(part, IterableDataset) for part in made):
        raise DataError(spec, "an IterableDataset cannot be shuffled alike for every tying; index it")
    return {name: split(f"{spec}, {name}", part) for name, part in zip(names, made, strict=True)}


def _task(spec: str, task: str, found: list[Survey], missing: bool, moves: bool) -> tuple[Task, Shape]:
    inputs, targets = found[0].inputs, found[0].targets
    if task == "regress":
        if found[0].whole:
            raise DataError(
                spec, "targets to regress must be floating-point numbers; targets.float() makes them so"
            )
        dense = len(targets) > 1 and targets[1:] == inputs[1:]
        return Regression(missing=missing), Shape(inputs, targets[0] if targets else 1, dense)
    if not found[0].whole:
        raise DataError(spec, f"targets to {task} must be whole numbers; targets.long() makes them so")
    classes = 1 + max(max(split.classes, default=0) for split in found)
    if task == "segment":
        return Segmentation(classes), Shape(inputs, classes, dense=True)
    if moves:
        return Classification(unseen=True), Shape(inputs, torch.Size(inputs[1:]).numel())
    return Classification(), Shape(inputs, classes)
