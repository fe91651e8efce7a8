"""What a study runs on: samples to train with, to choose the epoch with and to test with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import DataError
from .models import classifier, forecaster
from .recipe import Recipe, Samples
from .tasks import Classification, Regression, Task

HOURS_A_DAY = 24.0
# A forecast sees the field now and this many steps ago.
HISTORY = 3
# Steps between the splits of a series, so that one's last target is not the next one's first input.
GAP = 24


@dataclass(frozen=True)
class Data:
    """Three splits, the task, and a network and a recipe that fit them.

    ``baseline`` is the error on the test split of a forecast that needs no network.
    """

    name: str
    summary: str
    task: Task
    train: Samples
    validation: Samples
    test: Samples
    make_model: Callable[[], Module]
    recipe: Recipe = field(default_factory=Recipe)
    baseline: tuple[str, float] | None = None


def classification(name: str, images: Tensor, labels: Tensor) -> Data:
    """Images (N, C, H, W) and labels (N,), split at random (always alike) into 70, 10 and 20%.

    The images are normalised by the training split's mean and standard deviation.
    """
    check_samples(name, images, labels)
    classes, targets = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise DataError(name, f"all labels are {classes.tolist()}; a classification needs two classes")
    channels, size = images.shape[1], (images.shape[2], images.shape[3])
    if min(size) < 4:
        raise DataError(name, f"images of {size[0]}×{size[1]}; the network pools twice and needs 4×4")
    n = len(images)
    if n < 10:
        raise DataError(name, f"{n} images; the three splits need 10 at least")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    parts = order.tensor_split([round(0.7 * n), round(0.8 * n)])
    pixels = images.float()
    mean, std = _mean_and_std(name, pixels[parts[0]])
    pixels = (pixels - mean) / std
    train, validation, test = ((pixels[part], targets[part]) for part in parts)
    return Data(
        name,
        f"{n} images of {size[0]}×{size[1]}, {len(classes)} classes; "
        f"{len(parts[0])} to train, {len(parts[1])} to choose the epoch, {len(parts[2])} to test",
        Classification(),
        train,
        validation,
        test,
        lambda: classifier(channels, size, len(classes)),
    )


def forecast(name: str, series: Tensor, lead: int, hours: Tensor | None, unit: str = "") -> Data:
    """A field (time, H, W), to be forecast ``lead`` steps ahead: inputs to changes, split in order of time.

    Inputs are the field now and three steps ago and, where ``hours`` (time,) is given, the sine and cosine
    of the time of day; the target is the change over the lead. Normalised by the training split alone;
    67, 13 and 20% of the series, with a gap of a day between them.
    """
    if series.dim() != 3:
        raise DataError(name, f"a forecast needs a field (time, h, w), not {tuple(series.shape)}")
    check_finite(name, series)
    if lead < 1:
        raise DataError("lead", f"{lead}: must be 1 or more steps")
    steps = len(series)
    gap = max(GAP, lead + HISTORY)
    bounds = [(HISTORY, round(0.67 * steps)), (round(0.67 * steps) + gap, round(0.8 * steps))]
    bounds.append((bounds[1][1] + gap, steps - lead))
    if any(stop - start < 2 for start, stop in bounds):
        raise DataError(
            name, f"{steps} steps are too few for a lead of {lead} and the gaps of {gap} between the splits"
        )
    series = series.float()
    mean, std = _mean_and_std(name, series[: bounds[0][1]])
    now = torch.arange(steps)
    normal = (series - mean) / std
    channels = [normal, normal[(now - HISTORY).clamp(min=0)]]
    if hours is not None:
        angle = (2 * torch.pi / HOURS_A_DAY) * (hours % HOURS_A_DAY)
        channels += [wave.float()[:, None, None].expand_as(series) for wave in (angle.sin(), angle.cos())]
    inputs = torch.stack(channels, 1)
    change = (series[lead:] - series[:-lead])[:, None]
    start, stop = bounds[0]
    scale = change[start:stop].square().mean().sqrt().item()
    if scale == 0:
        raise DataError(name, f"the field never changes over {lead} steps: nothing to forecast")
    splits = [(inputs[start:stop], change[start:stop] / scale) for start, stop in bounds]
    height, width = series.shape[1:]
    counts = [stop - start for start, stop in bounds]
    task = Regression(scale, unit)
    target = splits[2][1]
    return Data(
        name,
        f"a field of {height}×{width}, {steps} steps, {lead} ahead; "
        f"{counts[0]} to train, {counts[1]} to choose the epoch, {counts[2]} to test",
        task,
        *splits,
        make_model=lambda: forecaster(len(channels)),
        recipe=Recipe(epochs=25, batch_size=32),
        baseline=("persistence", task.error(torch.zeros_like(target), target)),
    )


def check_samples(name: str, inputs: Tensor, targets: Tensor) -> None:
    """Raise DataError for samples that cannot be trained on."""
    if len(inputs) != len(targets):
        raise DataError(name, f"{len(inputs)} inputs but {len(targets)} targets; one each is needed")
    if len(inputs) == 0:
        raise DataError(name, "no samples")
    check_finite(name, inputs)
    check_finite(name, targets)


def check_finite(name: str, values: Tensor) -> None:
    """Raise DataError where a value is missing, saying how many and where the first is."""
    if not values.is_floating_point():
        return
    missing = ~values.isfinite()
    if missing.any():
        count, first = int(missing.sum()), tuple(missing.nonzero()[0].tolist())
        raise DataError(
            name,
            f"{count} of {values.numel()} values are NaN or infinite, the first at index {first}; "
            "fill them or cut them out first",
        )


def _mean_and_std(name: str, values: Tensor) -> tuple[Tensor, Tensor]:
    values = values.double()
    mean, std = values.mean(), values.std(correction=0)
    if std == 0:
        raise DataError(name, f"every value is {mean.item():g}: nothing to learn from")
    return mean.float(), std.float()
