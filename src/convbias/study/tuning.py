"""Learning rate and weight decay for each tying, chosen on the validation split with the same budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import DataError
from .bench import Bench
from .crew import Crew
from .jobs import Job
from .progress import Advance
from .recipe import Recipe
from .runs import Run

LEARNING_RATES = (1 / 3, 1.0, 3.0)
WEIGHT_DECAYS = (1.0, 10.0)
# Not one of the seeds that are compared.
SEED = -1


def grid(recipe: Recipe) -> list[Recipe]:
    """What is tried: multiples of the recipe's learning rate and weight decay."""
    return [
        replace(recipe, learning_rate=recipe.learning_rate * rate, weight_decay=recipe.weight_decay * decay)
        for rate in LEARNING_RATES
        for decay in WEIGHT_DECAYS
    ]


def jobs(asked: Sequence[Job]) -> list[Job]:
    """One training for each network and recipe tried."""
    return [replace(job, seed=SEED, recipe=tried, tuning=True) for job in asked for tried in grid(job.recipe)]


def tune(
    bench: Bench, asked: Sequence[Job], crew: Crew, run: Run | None, advance: Advance
) -> Mapping[str, Recipe]:
    """The recipe with the least validation error, by label, for each of ``asked``: one seed of each network.

    The test split stays shut. A label whose recipes all end without a finite error is left out.

    Raises DataError where there is no validation split.
    """
    if bench.validation is None:
        raise DataError("validation", "there is none; tuning needs a split of its own to choose on")
    tried = jobs(asked)
    found: dict[str, tuple[float, Recipe]] = {}
    for job, trial in zip(tried, crew.train(bench, tried, run, advance), strict=True):
        if trial.error < found.get(job.label, (math.inf, job.recipe))[0]:
            found[job.label] = (trial.error, job.recipe)
    return {label: best for label, (_, best) in found.items()}
