"""Learning rate and weight decay for each tying, chosen on the validation split with the same budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import DataError
from ..tying import Tying
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


def jobs(tyings: Sequence[Tying], recipe: Recipe) -> list[Job]:
    """One training for each tying and recipe tried."""
    return [Job(tying, SEED, tried, tuning=True) for tying in tyings for tried in grid(recipe)]


def tune(
    bench: Bench, tyings: Sequence[Tying], recipe: Recipe, crew: Crew, run: Run | None, advance: Advance
) -> Mapping[Tying, Recipe]:
    """The recipe of each tying with the least validation error; the test split stays shut.

    Raises DataError where there is no validation split.
    """
    if bench.validation is None:
        raise DataError("validation", "there is none; tuning needs a split of its own to choose on")
    tried = jobs(tyings, recipe)
    found: dict[Tying, tuple[float, Recipe]] = {}
    for job, trial in zip(tried, crew.train(bench, tried, run, advance), strict=True):
        error = min(trial.curve)
        if error < found.get(job.tying, (math.inf, recipe))[0]:
            found[job.tying] = (error, job.recipe)
    return {tying: best for tying, (_, best) in found.items()}
