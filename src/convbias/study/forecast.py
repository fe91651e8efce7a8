"""A field over time, to be forecast: inputs and targets, split in order of time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from ..errors import DataError
from .data import Axis, Data
from .models import Shape
from .recipe import Recipe
from .samples import check_finite
from .tasks import Regression

HOURS_A_DAY: Final = 24.0
# A forecast sees the field now and this many steps ago.
HISTORY: Final = 3
# Steps a day where nothing tells the time.
STEPS_A_DAY: Final = 24
# How far from a whole number of steps time may go on.
UNEVEN: Final = 0.25


@final
@dataclass(frozen=True, eq=False)
class Series:
    """A field (time, H, W), NaN where a value is missing.

    ``hours`` (time,) counts from some midnight, where the time is known. ``may_miss`` says that missing
    values are meant.
    """

    name: str
    values: Tensor
    hours: Tensor | None = None
    unit: str = ""
    axes: tuple[Axis, ...] = ()
    may_miss: bool = False
    notes: tuple[str, ...] = ()


def forecast(series: Series, lead: int) -> Data:
    """``series``, to be forecast ``lead`` steps ahead: from inputs to changes.

    Inputs are the field now and three steps ago and, where the time is known, the sine and cosine of the
    hour of the day; the target is the change over the lead. Normalised by the training split alone; 67, 13
    and 20% of the series, with a gap of a day between them, or of the lead and the history where longer.
    Missing values become the training mean in the inputs, and do not count among the targets; where steps
    are missing, what would reach over them is left out. Test samples belong together by days, as many as
    the lead.
    """
    name, values = series.name, series.values.float()
    if values.dim() != 3 or not values.numel():
        raise DataError(name, f"a forecast needs a field (time, h, w), not {tuple(values.shape)}")
    check_finite(name, values, missing=series.may_miss)
    if lead < 1:
        raise DataError("lead", f"{lead}: must be 1 or more steps")
    a_day = _steps_a_day(series)
    slots = _slots(series)
    past, future = _at(slots, slots - HISTORY), _at(slots, slots + lead)
    usable = past.there & future.there
    parts = _parts(name, slots, usable, lead, max(a_day, lead + HISTORY))
    known = values.isfinite()
    training = _first(len(values))
    seen = values[:training][known[:training]].double()
    if not len(seen) or seen.std(correction=0) == 0:
        told = f"every value is {seen[0].item():g}" if len(seen) else "every value is missing"
        raise DataError(name, f"in the training split {told}: nothing to learn from")
    mean, std = seen.mean().float(), seen.std(correction=0).float()
    normal = ((values - mean) / std).masked_fill(~known, 0)
    channels = [normal, normal[past.index]]
    if series.hours is not None:
        angle = (2 * torch.pi / HOURS_A_DAY) * (series.hours % HOURS_A_DAY)
        channels += [wave.float()[:, None, None].expand_as(values) for wave in (angle.sin(), angle.cos())]
    inputs = torch.stack(channels, 1)
    change = (values[future.index] - values)[:, None]
    scale = change[parts[0]].square().nanmean().sqrt().item()
    if not 0 < scale < math.inf:
        told = "change so much that it overflows; give it in a larger unit" if scale else "never change"
        raise DataError(name, f"over {lead} steps its values {told}: nothing to forecast")
    splits = [(inputs[part], change[part] / scale) for part in parts]
    task = Regression(scale, series.unit, missing=not bool(known.all()))
    counts = [len(part) for part in parts]
    when = parts[2]
    step = _step(series) or HOURS_A_DAY / STEPS_A_DAY
    hours = when * step if series.hours is None else series.hours[when]
    # The errors of forecasts that overlap in time go together.
    days = max(1, math.ceil(lead * step / HOURS_A_DAY))
    notes = [*series.notes]
    if absent := int(slots[-1]) + 1 - len(slots):
        inside = (slots >= HISTORY) & (slots <= slots[-1] - lead)
        notes.append(
            f"Of the steps in time, {absent} are missing; {int((inside & ~usable).sum())} forecasts that "
            "would begin, look back or end there are left out."
        )
    if task.missing:
        notes.append(
            f"{1 - known.float().mean().item():.1%} of the values are missing; in the inputs they are the "
            f"training mean, {mean.item():.6g}, and among the targets they do not count."
        )
    return Data(
        name,
        f"a field of {values.shape[1]}×{values.shape[2]}, {len(values)} steps, {lead} ahead"
        f"{_in_hours(series, lead)}; {counts[0]} to train, {counts[1]} to choose the epoch, "
        f"{counts[2]} to test",
        task,
        *splits,
        shape=Shape(tuple(inputs.shape[1:]), 1, dense=True),
        recipe=Recipe(epochs=25, batch_size=32),
        baseline=(
            "persistence",
            task.error(task.tallies(0 * splits[2][1].nan_to_num(), splits[2][1]).sum(0)).item(),
        ),
        blocks=hours.double().div(HOURS_A_DAY * days).floor().long(),
        block="a day" if days == 1 else f"{days} days",
        axes=series.axes,
        notes=tuple(notes),
    )


def _first(steps: int) -> int:
    """How many steps are the training split's."""
    return round(0.67 * steps)


def _parts(name: str, slots: Tensor, usable: Tensor, lead: int, gap: int) -> list[Tensor]:
    """The steps of the three splits: one's last target is not the next one's first input."""
    steps = len(slots)
    first, second = (slots[min(i, steps - 1)] for i in (_first(steps), round(0.8 * steps)))
    inside = (slots < first, (slots >= first + gap) & (slots < second), slots >= second + gap)
    parts = [(usable & part).nonzero()[:, 0] for part in inside]
    if any(len(part) < 2 for part in parts):
        raise DataError(
            name, f"{steps} steps are too few for a lead of {lead} and the gaps of {gap} between the splits"
        )
    return parts


@dataclass(frozen=True)
class _Found:
    """The steps that have some slots, and whether there are such."""

    index: Tensor
    there: Tensor


def _at(slots: Tensor, wanted: Tensor) -> _Found:
    index = torch.searchsorted(slots, wanted).clamp(max=len(slots) - 1)
    return _Found(index, slots[index] == wanted)


def _slots(series: Series) -> Tensor:
    """Each step's number on an axis of time without gaps. Raises DataError where there is no such axis."""
    step = _step(series)
    if series.hours is None or step is None:
        return torch.arange(len(series.values))
    steps = series.hours.double().diff() / step
    whole = steps.round()
    # Months have 28 to 31 days.
    uneven = ((steps - whole).abs() > UNEVEN) | (whole < 1)
    if uneven.any():
        at = int(uneven.nonzero()[0])
        raise DataError(
            series.name,
            f"time goes on by {steps[at] * step:g} hours after step {at} and mostly by {step:g}, which is no "
            "whole number of steps; bring it to equal steps first, as xarray's resample does",
        )
    return torch.cat([whole.new_zeros(1), whole.cumsum(0)]).long()


def _steps_a_day(series: Series) -> int:
    step = _step(series)
    return STEPS_A_DAY if step is None else max(1, round(HOURS_A_DAY / step))


def _step(series: Series) -> float | None:
    """The hours of a step. Raises DataError where time does not go on."""
    if series.hours is None or len(series.hours) < 2:
        return None
    steps = series.hours.double().diff()
    if not (steps > 0).all():
        where = int((steps <= 0).nonzero()[0])
        raise DataError(series.name, f"time does not go on after step {where}; sort it, each time once")
    return steps.median().item()


def _in_hours(series: Series, lead: int) -> str:
    step = _step(series)
    if step is None:
        return ""
    return f" ({lead * step:g} hour{'s' * (lead * step != 1)})"
