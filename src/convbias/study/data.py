"""What a study runs on: samples to train with, to choose the epoch with and to test with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, final

import torch
from torch import Tensor

from ..errors import DataError
from . import samples
from .models import Shape
from .recipe import Recipe
from .samples import Samples
from .tasks import IGNORED, Classification, Regression, Segmentation, Task

SPLITS: Final = ("train", "validation", "test")
Pair = tuple[Tensor, Tensor]


@final
@dataclass(frozen=True)
class Axis:
    """The coordinates along one axis of the data, for maps."""

    name: str
    values: tuple[float, ...]
    unit: str = ""


@final
@dataclass(frozen=True)
class Data:
    """Three splits, the task, the shape of a network for it, and a recipe that fits.

    ``baseline`` is the error on the test split of a forecast that needs no network. ``blocks`` numbers the
    test samples that belong together, ``axes`` are the coordinates of the two axes of maps, and ``notes``
    say what a reader of the results has to know.
    """

    name: str
    summary: str
    task: Task
    train: Samples
    validation: Samples | None
    test: Samples
    shape: Shape
    recipe: Recipe = field(default_factory=Recipe)
    baseline: tuple[str, float] | None = None
    blocks: Tensor | None = None
    block: str = "sample"
    axes: tuple[Axis, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, Samples]:
        """The splits that there are, by name."""
        parts = zip(SPLITS, (self.train, self.validation, self.test), strict=True)
        return {name: part for name, part in parts if part is not None}


def split_at_random(name: str, inputs: Tensor, targets: Tensor) -> dict[str, Pair]:
    """70, 10 and 20%, always alike."""
    samples.check(name, (inputs, targets), missing_targets=True)
    n = len(inputs)
    if n < 10:
        raise DataError(name, f"{n} samples; the three splits need 10 at least")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    parts = order.tensor_split([round(0.7 * n), round(0.8 * n)])
    return {split: (inputs[part], targets[part]) for split, part in zip(SPLITS, parts, strict=True)}


def classification(name: str, splits: Mapping[str, Pair], *, moves: bool = False) -> Data:
    """Inputs (N, C, *space) and labels (N,) by split, ``validation`` or not.

    Labels are numbered from 0 in their order; inputs are normalised by each channel's mean and standard
    deviation over the training split. With ``moves``, labels are places of a board, counted row by row.
    """
    known = torch.cat([targets for _, targets in splits.values()]).unique()
    if moves:
        places = torch.Size(splits["train"][0].shape[2:]).numel()
        if known[0] < 0 or known[-1] >= places:
            raise DataError(name, f"labels from {known[0]} to {known[-1]} are no places of {places}")
        return _data(name, splits, Classification(unseen=True), places, f"{places} places")
    if len(known) < 2:
        raise DataError(name, f"all labels are {known.tolist()}; a classification needs two classes")
    numbered = {
        split: (inputs, torch.searchsorted(known, targets)) for split, (inputs, targets) in splits.items()
    }
    return _data(name, numbered, Classification(), len(known), f"{len(known)} classes")


def segmentation(name: str, splits: Mapping[str, Pair]) -> Data:
    """Inputs (N, C, *space) and labels (N, *space), negative or 255 where there is none."""
    labelled: dict[str, Pair] = {}
    for split, (inputs, targets) in splits.items():
        if targets.shape[1:] != inputs.shape[2:]:
            raise DataError(
                name,
                f"labels {tuple(targets.shape)} for inputs {tuple(inputs.shape)}; each place needs one",
            )
        targets = targets.long()
        labelled[split] = (inputs, targets.masked_fill((targets < 0) | (targets == 255), IGNORED))
    classes = 1 + max(int(targets.max()) for _, targets in labelled.values())
    if classes < 2:
        raise DataError(name, "there is one class alone; a segmentation needs two")
    return _data(name, labelled, Segmentation(classes), classes, f"{classes} classes", dense=True)


def regression(name: str, splits: Mapping[str, Pair], *, missing: bool = False) -> Data:
    """Inputs (N, C, *space) and values (N,), (N, T) or (N, T, *space), normalised by the training split's.

    With ``missing``, targets that are NaN do not count.
    """
    targets = {split: t.float()[:, None] if t.dim() == 1 else t.float() for split, (_, t) in splits.items()}
    first = splits["train"][0]
    dense = first.dim() > 2 and targets["train"].shape[2:] == first.shape[2:]
    if not dense and targets["train"].dim() != 2:
        raise DataError(
            name,
            f"targets {tuple(targets['train'].shape)} for inputs {tuple(first.shape)}: must be (N,), (N, T), "
            "or (N, T, *space) with the inputs' own space",
        )
    known = targets["train"][targets["train"].isfinite()].double()
    if not len(known) or known.std(correction=0) == 0:
        raise DataError(name, "the training targets are all alike: nothing to learn")
    mean, scale = known.mean().item(), known.std(correction=0).item()
    normal = {split: (x, (targets[split] - mean) / scale) for split, (x, _) in splits.items()}
    task = Regression(scale, missing=missing)
    outputs = targets["train"].shape[1]
    what = f"{outputs} value{'s' * (outputs > 1)} to predict{' at each place' * dense}"
    # The mean of the training split is what a network has to beat.
    test = normal["test"][1]
    guess = task.error(task.tallies(torch.zeros_like(test), test).sum(0)).item()
    return _data(name, normal, task, outputs, what, dense=dense, baseline=("the training mean", guess))


def _data(
    name: str,
    splits: Mapping[str, Pair],
    task: Task,
    outputs: int,
    what: str,
    dense: bool = False,
    baseline: tuple[str, float] | None = None,
) -> Data:
    for split, (inputs, targets) in splits.items():
        samples.check(f"{name}, {split}", (inputs, targets), missing_targets=isinstance(task, Regression))
    normal = normalised(name, splits)
    first = normal["train"][0]
    sizes = [f"{len(normal[split][0])} {use}" for split, use in _USES.items() if split in normal]
    return Data(
        name,
        f"{sum(len(inputs) for inputs, _ in splits.values())} samples of "
        f"{'×'.join(map(str, first.shape[1:]))}, {what}; {', '.join(sizes)}",
        task,
        normal["train"],
        normal.get("validation"),
        normal["test"],
        Shape(tuple(first.shape[1:]), outputs, dense),
        baseline=baseline,
    )


_USES: Final = {"train": "to train", "validation": "to choose the epoch", "test": "to test"}


def normalised(name: str, splits: Mapping[str, Pair]) -> dict[str, Pair]:
    """The splits with inputs of mean 0 and standard deviation 1, channel by channel, by the training split.

    Raises DataError where every channel is constant.
    """
    training = splits["train"][0].double()
    over = (0, *range(2, training.dim()))
    mean = training.mean(over, keepdim=True)
    deviation = training.std(over, keepdim=True, correction=0)
    if (deviation == 0).all():
        raise DataError(name, f"every value is {mean.flatten()[0].item():g}: nothing to learn from")
    # A channel that is constant says nothing, and does no harm.
    deviation = deviation.masked_fill(deviation == 0, 1)
    return {
        split: (((inputs.double() - mean) / deviation).float(), targets)
        for split, (inputs, targets) in splits.items()
    }


def days(hours: Sequence[float] | Tensor) -> Tensor:
    """The number of the day of each hour since some midnight.

    >>> days([0.0, 23.5, 24.0, 50.0])
    tensor([0, 0, 1, 2])
    """
    return torch.as_tensor(hours).double().div(24).floor().long()
