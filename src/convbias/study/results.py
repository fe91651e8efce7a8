"""What came of a study: the table's rows, and the tying to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from .costs import Cost
from .digits import Digits
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
    """The trials of a comparison. ``costs`` are by label; ``notes`` say what a reader has to know.

    ``layers`` are those that were chosen, by the expression ``where`` if by one; None is all. ``baseline``
    is what needs no network, and its error.
    """

    task: Task
    recipe: Recipe
    trials: tuple[Trial, ...]
    blocks: Tensor | None = None
    costs: Mapping[str, Cost] = field(default_factory=dict[str, Cost])
    notes: tuple[str, ...] = ()
    layers: tuple[str, ...] | None = None
    where: str | None = None
    baseline: tuple[str, float] | None = None

    @property
    def seeds(self) -> int:
        """How many seeds were trained."""
        return len({trial.seed for trial in self.trials})

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The table, in the order of the tyings, the control last.

        What has failed for a seed is held against nothing: the seeds that are left are those it was good for.
        """
        errors, of = self.errors, self._by_label
        failed = {trial.label for trial in self.failures}
        reference = {} if REFERENCE in failed else errors.get(REFERENCE, {})
        alone = {REFERENCE, *failed}
        apart = {name: [] if name in alone else paired(e, reference) for name, e in errors.items()}
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
                over_samples=self._over_samples(name) if apart[name] else None,
                catches_up=self._catches_up(name),
            )
            for name in errors
        )

    @property
    def failures(self) -> list[Trial]:
        """The trials without a finite error."""
        return [trial for trial in self.trials if trial.failure]

    @property
    def errors(self) -> dict[str, dict[int, float]]:
        """The errors by label and seed."""
        return {
            name: {trial.seed: trial.error for trial in trials} for name, trials in self._by_label.items()
        }

    @cached_property
    def digits(self) -> Digits:
        """How its numbers are written."""
        apart = [row.difference.mean for row in self.rows if row.difference is not None]
        return Digits.of((row.error.mean for row in self.rows), apart)

    @property
    def choice(self) -> Row | None:
        """The tying to take: of those that beat tied, the smallest that is about as good as the best.

        That is one that keeps 95% of the best one's gain, or that the best one is not found to beat. Tied,
        where none is found to be better. None where a network failed, for then nothing is known.
        """
        if self.failures:
            return None
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
        firsts = {name: trials[0] for name, trials in self._explained.items()}
        return {name: trial.fields for name, trial in firsts.items() if trial.width is None}

    @property
    def shares(self) -> dict[str, dict[str, dict[str, float]]]:
        """What each layer's output is made of, by label, layer and part: means over the seeds."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for name, trials in self._explained.items():
            found[name] = {
                layer: {
                    part: sum(trial.shares[layer][part] for trial in trials) / len(trials) for part in parts
                }
                for layer, parts in trials[0].shares.items()
            }
        return found

    @property
    def _explained(self) -> dict[str, list[Trial]]:
        """Those with a finite error, fields and shares."""
        explained = {name: [t for t in of if not t.unexplained] for name, of in self._by_label.items()}
        return {name: trials for name, trials in explained.items() if trials}

    @cached_property
    def _by_label(self) -> dict[str, list[Trial]]:
        """Those with a finite error."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            if not trial.failure:
                found.setdefault(trial.label, []).append(trial)
        return found

    def _over_samples(self, name: str) -> Interval | None:
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
