"""``module:factory`` for data: any ``torch.utils.data.Dataset``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from ...errors import DataError
from .. import samples
from ..data import SPLITS, Data
from ..factories import called
from ..models import Shape
from ..samples import Samples
from ..tasks import Classification, Regression, Segmentation, Task


def load(spec: str, task: str, *, missing: bool, moves: bool) -> Data:
    """What the function returns: (train, test), (train, validation, test), or one data set to be split.

    Each is a Dataset that can be indexed, of pairs (input, target), or a pair of tensors. Nothing is
    normalised: that is the data set's own affair.

    Raises DataError for anything else.
    """
    made: Any = called("data", spec)
    parts = _parts(spec, made)
    example, targets = samples.some(spec, parts["train"])
    if example.dim() < 3:
        raise DataError(spec, f"inputs must be (C, *space), not {tuple(example.shape[1:])}")
    inputs = tuple(example.shape[1:])
    found = _task(spec, task, targets, missing, moves, inputs)
    kind, shape = found
    sizes = ", ".join(f"{samples.count(split)} for {name}" for name, split in parts.items())
    return Data(
        spec,
        f"samples of {'×'.join(map(str, inputs))}: {sizes}",
        kind,
        parts["train"],
        parts.get("validation"),
        parts["test"],
        shape,
        notes=("The data set's own samples, not normalised.",),
    )


def _parts(spec: str, made: Any) -> dict[str, Samples]:
    if isinstance(made, Dataset):
        if isinstance(made, IterableDataset):
            raise DataError(spec, "an IterableDataset cannot be shuffled alike for every tying; index it")
        n = samples.count(made)
        if n < 10:
            raise DataError(spec, f"{n} samples; the three splits need 10 at least")
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        cuts = order.tensor_split([round(0.7 * n), round(0.8 * n)])
        return {name: Subset(made, cut.tolist()) for name, cut in zip(SPLITS, cuts, strict=True)}
    if not isinstance(made, (tuple, list)) or not 2 <= len(made) <= 3:
        raise DataError(
            spec,
            f"must return a Dataset, (train, test) or (train, validation, test), not {type(made).__name__}",
        )
    names = SPLITS if len(made) == 3 else ("train", "test")
    parts: dict[str, Samples] = {}
    for name, part in zip(names, made, strict=True):
        pair = isinstance(part, tuple) and len(part) == 2 and all(isinstance(p, Tensor) for p in part)
        if isinstance(part, IterableDataset) or not (pair or hasattr(part, "__getitem__")):
            raise DataError(spec, f"{name} must be a Dataset that can be indexed, not {type(part).__name__}")
        parts[name] = part
    return parts


def _task(
    spec: str, task: str, targets: Tensor, missing: bool, moves: bool, inputs: tuple[int, ...]
) -> tuple[Task, Shape]:
    if task == "regress":
        if not targets.is_floating_point():
            raise DataError(spec, f"targets to regress must be floating-point numbers, not {targets.dtype}")
        dense = targets.shape[2:] == inputs[1:] and targets.dim() > 2
        outputs = targets.shape[1] if targets.dim() > 1 else 1
        return Regression(missing=missing), Shape(inputs, outputs, dense)
    if targets.is_floating_point() or targets.dim() == 0:
        raise DataError(spec, f"targets to {task} must be whole numbers, not {targets.dtype}")
    classes = int(targets.max()) + 1
    if task == "segment":
        return Segmentation(classes), Shape(inputs, classes, dense=True)
    if moves:
        return Classification(unseen=True), Shape(inputs, torch.Size(inputs[1:]).numel())
    return Classification(), Shape(inputs, classes)
