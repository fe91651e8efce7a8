"""What came of a study: the table's rows, and the tying to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from .costs import Cost
from .jobs import Trial
from .recipe import Recipe
from .statistics import (
    LEVEL,
    Estimate,
    Interval,
    bootstrap,
    estimate,
    holm,
    over_blocks,
    p_value,
    paired,
)
from .tasks import Task

REFERENCE = "tied"
# A smaller tying that keeps so much of the best one's gain over tied is taken instead.
KEPT = 0.95


@final
@dataclass(frozen=True)
class Row:
    """One tying: its error over the seeds and, but for tied itself, its paired difference from tied.

    ``p`` is the difference's p-value, corrected for the number of tyings (Holm); below 0.05 it is found.
    ``bootstrap`` is the difference's interval over seeds by resampling, from ten seeds on; ``over_samples``
    its interval over test samples, where the seeds are what they are. ``catches_up`` is the first epoch
    after which the mean validation error is as low as tied's ever gets. ``width`` is not None for the
    control: a tied network that is wider, and is in no correction.
    """

    label: str
    tying: str
    width: int | None
    parameters: int
    error: Estimate
    difference: Estimate | None
    p: float | None
    bootstrap: Interval | None
    over_samples: Interval | None
    catches_up: int | None

    @property
    def found(self) -> bool:
        """Whether there is a difference from tied."""
        return self.p is not None and self.p < 1 - LEVEL

    @property
    def gain(self) -> float:
        """How far the error is below tied's."""
        return 0.0 if self.difference is None else -self.difference.mean


@final
@dataclass(frozen=True)
class Study:
    """The trials of a comparison. ``costs`` are by label; ``notes`` say what a reader has to know."""

    task: Task
    recipe: Recipe
    trials: tuple[Trial, ...]
    blocks: Tensor | None = None
    costs: Mapping[str, Cost] = field(default_factory=dict[str, Cost])
    notes: tuple[str, ...] = ()

    @property
    def seeds(self) -> int:
        """How many seeds were trained."""
        return len({trial.seed for trial in self.trials})

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The table, in the order of the tyings, the control last."""
        errors, of = self.errors, self._by_label
        reference = errors.get(REFERENCE, {})
        apart = {name: [] if name == REFERENCE else paired(e, reference) for name, e in errors.items()}
        ours = [name for name in errors if of[name][0].width is None]
        corrected = dict(zip(ours, holm([p_value(apart[name]) for name in ours]), strict=True))
        return tuple(
            Row(
                label=name,
                tying=of[name][0].tying,
                width=of[name][0].width,
                parameters=of[name][0].parameters,
                error=estimate([*errors[name].values()]),
                difference=estimate(apart[name]) if apart[name] else None,
                p=corrected[name] if name in corrected else p_value(apart[name]),
                bootstrap=bootstrap(apart[name]),
                over_samples=self._over_samples(name),
                catches_up=self._catches_up(name),
            )
            for name in errors
        )

    @property
    def errors(self) -> dict[str, dict[int, float]]:
        """The errors by label and seed."""
        found: dict[str, dict[int, float]] = {}
        for trial in self.trials:
            found.setdefault(trial.label, {})[trial.seed] = trial.error
        return found

    @property
    def choice(self) -> Row:
        """The tying to take: of those that beat tied, the smallest that is about as good as the best.

        That is one that keeps 95% of the best one's gain, or that the best one is not found to beat. Tied,
        where none is found to be better.
        """
        better = [row for row in self.rows if row.found and row.gain > 0 and row.width is None]
        if not better:
            return next(row for row in self.rows if row.label == REFERENCE)
        best = max(better, key=lambda row: row.gain)

        def as_good(row: Row) -> bool:
            p = p_value(paired(self.errors[row.label], self.errors[best.label]))
            return row.gain >= KEPT * best.gain or p is None or p >= 1 - LEVEL

        return min(filter(as_good, better), key=lambda row: row.parameters)

    @property
    def control(self) -> Row | None:
        """The wider tied network, if there was one."""
        return next((row for row in self.rows if row.width is not None), None)

    @property
    def curves(self) -> dict[str, list[tuple[float, ...]]]:
        """The validation errors after each epoch, by label, for every seed."""
        return {name: [trial.curve for trial in trials] for name, trials in self._by_label.items()}

    @property
    def fields(self) -> dict[str, Mapping[str, Tensor]]:
        """The bias fields ``(C, *out)`` that the first seed learned, by tying and layer."""
        firsts = {name: trials[0] for name, trials in self._by_label.items()}
        return {name: trial.fields for name, trial in firsts.items() if trial.width is None}

    @property
    def shares(self) -> dict[str, dict[str, dict[str, float]]]:
        """What each layer's output is made of, by label, layer and part: means over the seeds."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for name, trials in self._by_label.items():
            found[name] = {
                layer: {
                    part: sum(trial.shares[layer][part] for trial in trials) / len(trials) for part in parts
                }
                for layer, parts in trials[0].shares.items()
            }
        return found

    @cached_property
    def _by_label(self) -> dict[str, list[Trial]]:
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            found.setdefault(trial.label, []).append(trial)
        return found

    def _over_samples(self, name: str) -> Interval | None:
        if name == REFERENCE or REFERENCE not in self._by_label:
            return None
        others = {trial.seed: trial.tallies for trial in self._by_label[REFERENCE]}
        pairs = [(t.tallies, others[t.seed]) for t in self._by_label[name] if t.seed in others]
        if not pairs or not len(pairs[0][0]):
            return None
        ours, theirs = map(torch.stack, zip(*pairs, strict=True))
        blocks = torch.arange(ours.shape[1]) if self.blocks is None else self.blocks
        return over_blocks(self.task.error, ours, theirs, blocks)

    def _catches_up(self, name: str) -> int | None:
        curves = self.curves
        goal = _mean_curve(curves.get(REFERENCE, []))
        if not goal:
            return None
        reached = (epoch for epoch, error in enumerate(_mean_curve(curves[name]), 1) if error <= min(goal))
        return next(reached, None)


def _mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    return [sum(errors) / len(errors) for errors in zip(*curves, strict=True)]
