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
from .tasks import IGNORED, Classification, Regression, Segmentation, Task, unseen

SPLITS: Final = ("train", "validation", "test")
Pair = tuple[Tensor, Tensor]
# So many classes are called by their names.
NAMED: Final = 10
# The unit of several values that are normalised each by itself.
DEVIATIONS: Final = "standard deviations"


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
    test samples that belong together, as ``block`` says; ``axes`` are the coordinates of the two axes of
    maps, and ``notes`` say what a reader of the results has to know.
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
    block: str = "a sample"
    axes: tuple[Axis, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, Samples]:
        """The splits that there are, by name."""
        parts = zip(SPLITS, (self.train, self.validation, self.test), strict=True)
        return {name: part for name, part in parts if part is not None}


def split_at_random(name: str, inputs: Tensor, targets: Tensor, *, classes: bool = False) -> dict[str, Pair]:
    """70, 10 and 20%, always alike; of ``classes``, each has a sample at least to train with."""
    samples.check(name, (inputs, targets), missing_targets=True)
    n = len(inputs)
    if n < 10:
        raise DataError(name, f"{n} samples; the three splits need 10 at least")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    training = round(0.7 * n)
    if classes:
        order = _rare_first(order, targets, training)
    parts = order.tensor_split([training, round(0.8 * n)])
    return {split: (inputs[part], targets[part]) for split, part in zip(SPLITS, parts, strict=True)}


def _rare_first(order: Tensor, labels: Tensor, training: int) -> Tensor:
    """``order`` with one sample in front of each class that is not among the first ``training``."""
    ordered = labels[order]
    rare = torch.tensor(sorted({*ordered.tolist()} - {*ordered[:training].tolist()}), dtype=labels.dtype)
    firsts = (ordered == rare[:, None]).long().argmax(1)
    others = torch.ones(len(order), dtype=torch.bool)
    others[firsts] = False
    return torch.cat([order[firsts], order[others]])


def classification(
    name: str, splits: Mapping[str, Pair], *, moves: bool = False, names: Sequence[str] = ()
) -> Data:
    """Inputs (N, C, *space) and labels (N,) by split, ``validation`` or not.

    Labels are numbered from 0 in their order; inputs are normalised by each channel's mean and standard
    deviation over the training split. With ``moves``, labels are places of a board, counted row by row.
    ``names`` are those of the classes, where they have any but their labels.

    Raises DataError for a class that is not in the training split, and where there is one class alone.
    """
    known = torch.cat([targets for _, targets in splits.values()]).unique()
    if moves:
        places = torch.Size(splits["train"][0].shape[2:]).numel()
        if known[0] < 0 or known[-1] >= places:
            raise DataError(name, f"labels from {known[0]} to {known[-1]} are no places of {places}")
        return _data(name, splits, Classification(unseen=True), places, f"{places} places")
    called = list(names) or known.tolist()
    if len(known) < 2:
        raise DataError(name, f"all labels are {called}; a classification needs two classes")
    trained = set(splits["train"][1].tolist())
    for split, (_, targets) in splits.items():
        missing = set(targets.tolist()) - trained
        if missing:
            told = [which for label, which in zip(known.tolist(), called, strict=True) if label in missing]
            raise unseen(f"{name}, {split}", told)
    numbered = {
        split: (inputs, torch.searchsorted(known, targets)) for split, (inputs, targets) in splits.items()
    }
    what = f"{len(known)} classes"
    if 0 < len(names) <= NAMED:
        what += f" ({', '.join(names)})"
    return _data(name, numbered, Classification(), len(known), what)


def segmentation(name: str, splits: Mapping[str, Pair]) -> Data:
    """Inputs (N, C, *space) and labels (N, *space), negative or 255 where there is none."""
    labelled: dict[str, Pair] = {}
    hint = ""
    for split, (inputs, targets) in splits.items():
        if targets.shape[1:] != inputs.shape[2:]:
            raise DataError(
                name,
                f"labels {tuple(targets.shape)} for inputs {tuple(inputs.shape)}; each place needs one",
            )
        targets = targets.long()
        if (targets == 255).any():
            hint = "; 255 means that there is no label: where it is a class, number the classes 0, 1, …"
        labelled[split] = (inputs, targets.masked_fill((targets < 0) | (targets == 255), IGNORED))
    classes = 1 + max(int(targets.max()) for _, targets in labelled.values())
    if classes < 2:
        raise DataError(name, f"there is one class alone; a segmentation needs two{hint}")
    return _data(name, labelled, Segmentation(classes), classes, f"{classes} classes", dense=True)


def regression(name: str, splits: Mapping[str, Pair], *, missing: bool = False) -> Data:
    """Inputs (N, C, *space) and values (N,), (N, T) or (N, T, *space), normalised by the training split's.

    Of several values T each is normalised by itself, so that all count alike whatever their units, and the
    error is in standard deviations. With ``missing``, targets that are NaN do not count.
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
    mean, scale = _moments(name, targets["train"])
    normal = {split: (x, (targets[split] - mean) / scale) for split, (x, _) in splits.items()}
    alone = scale.numel() == 1
    task = Regression(scale.item() if alone else 1.0, "" if alone else DEVIATIONS, missing=missing)
    outputs = targets["train"].shape[1]
    what = f"{outputs} value{'s' * (outputs > 1)} to predict{' at each place' * dense}"
    # The mean of the training split is what a network has to beat.
    test = normal["test"][1]
    guess = task.error(task.tallies(torch.zeros_like(test), test).sum(0)).item()
    return _data(name, normal, task, outputs, what, dense=dense, baseline=("the training mean", guess))


def _moments(name: str, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each of the values (N, T, …) that are there, (1, T, …)."""
    means: list[float] = []
    deviations: list[float] = []
    for number, values in enumerate(targets.unbind(1)):
        known = values[values.isfinite()].double()
        if not len(known) or known.std(correction=0) == 0:
            which = f", value {number} of {targets.shape[1]}," if targets.shape[1] > 1 else ""
            raise DataError(name, f"the training targets{which} are all alike: nothing to learn")
        means.append(known.mean().item())
        deviations.append(known.std(correction=0).item())
    shape = (1, -1, *(1,) * (targets.dim() - 2))
    return torch.tensor(means).view(shape), torch.tensor(deviations).view(shape)


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
