"""The comparison: one network, trained under each tying from the same start on the same batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from ..nn.surgery import Where
from ..tying import Tying, parse
from . import arguments, control, tuning
from .bench import Bench
from .costs import measure
from .crew import Crew, OneByOne
from .jobs import Job
from .progress import bar
from .ranks import device_called
from .recipe import Recipe
from .results import REFERENCE, Study
from .runs import Run
from .samples import Samples, count
from .tasks import Classification, Task
from .team import ALONE

# By the number of axes.
TYINGS = {
    1: ("none", "tied", "tap", "rank:1", "untied"),
    2: ("none", "tied", "tap", "c h", "c w", "c h + c w", "rank:1", "untied"),
    3: ("none", "tied", "tap", "c d + c h + c w", "rank:1", "untied"),
}
LEVEL_AND_OFFSET = {1: "c + c l", 2: "c + c h w", 3: "c + c d h w"}
SEEDS = 5
# Splits with fewer samples are told of.
FEW = 30


class NothingFinite(ValueError):
    """Every network was trained, and none has a finite error."""


def compare(
    make_model: Callable[..., Module],
    train: Samples,
    test: Samples,
    *,
    validation: Samples | None = None,
    task: Task | None = None,
    tyings: Sequence[bool | str | Tying] | None = None,
    where: Where = None,
    seeds: int | Sequence[int] = SEEDS,
    recipe: Recipe | None = None,
    tune: bool = False,
    blocks: Tensor | None = None,
    device: torch.device | str = "cpu",
    costs: bool = False,
    run: Run | None = None,
) -> Study:
    """Train the network that ``make_model`` makes under each tying, and compare the errors on the test split.

    For each seed one network with tied biases is made, and each tying starts from it through
    :func:`convbias.retie`: finer ones as the very same function. Batches, their order and whatever the
    network or the data draw are the same for every tying, so differences are paired by seed. Samples are
    tensors of inputs and targets, ``(N, …)`` each, or a ``torch.utils.data.Dataset`` of such pairs. The
    state that counts is that of the epoch with the least validation error, or of the last one without a
    validation split; the test split chooses nothing. Tied is always compared.

    ``tyings`` defaults to those of ``TYINGS`` for the network's convolutions, and ``where`` chooses layers,
    as in ``retie``. With ``tune``, each tying first finds its learning rate and weight decay on the
    validation split. ``blocks`` (N,) numbers test samples that belong together, such as those of one day.
    Where ``make_model`` takes ``width=``, a wider tied network with as many parameters is trained as well.
    ``costs`` measures time and memory of a training step afterwards. In ``run`` finished trials are kept.

    Warns of layers that cannot have a tying and keep the bias that they had.

    Raises DataError for samples that cannot be used, TyingError for spellings that cannot be read,
    SurgeryError for tyings that no layer can have and ValueError for other arguments that cannot be: all
    before anything is trained.

    >>> x, y = torch.randn(20, 1, 6, 6), torch.arange(20) % 2
    >>> def net():
    ...     return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                                torch.nn.Linear(32, 2))
    >>> study = compare(net, (x, y), (x, y), tyings=["untied"], seeds=2, recipe=Recipe(epochs=1))
    >>> [(row.tying, row.parameters) for row in study.rows]
    [('tied', 86), ('untied', 116)]
    """
    bench = Bench(
        make_model=arguments.factory(make_model),
        train=arguments.samples("train", train),
        validation=None if validation is None else arguments.samples("validation", validation),
        test=arguments.samples("test", test),
        task=task or Classification(),
        where=where,
        device=device_called(device),
    )
    with nullcontext() if run is None else run.alone():
        return compare_on(
            *(bench, arguments.tyings(tyings)),
            seeds=seeds,
            recipe=recipe or Recipe(),
            tune=tune,
            blocks=arguments.blocks(blocks, bench.test),
            costs=costs,
            run=run,
        )


def compare_on(
    bench: Bench,
    tyings: Sequence[bool | str | Tying] | None = None,
    *,
    seeds: int | Sequence[int] = SEEDS,
    recipe: Recipe,
    tune: bool = False,
    blocks: Tensor | None = None,
    run: Run | None = None,
    crew: Crew | None = None,
    costs: bool = False,
) -> Study:
    """``compare``, on a bench that is made, by a crew of one's own."""
    crew, numbers = crew or OneByOne(), arguments.seeds(seeds)
    notes: list[str] = []
    chosen = _chosen(tyings, recipe, bench, notes)
    bench.check(chosen)
    width, told = control.wide_enough(bench, chosen, recipe)
    notes += [told, *_few(bench), *_normalised_apart(bench)]
    kinds = [Job(tying, numbers[0], recipe) for tying in chosen]
    if width is not None:
        kinds.append(Job(parse(REFERENCE), numbers[0], recipe, width))

    trials = len(numbers) * len(kinds) + (len(tuning.jobs(kinds)) if tune else 0)
    with bar(recipe.epochs * trials, each=recipe.epochs, quiet=not bench.team.leads) as advance:
        if tune:
            recipes = tuning.tune(bench, kinds, crew, run, advance)
            notes += [
                f"For {job.label}, no recipe that was tried ended with a finite error; it was trained with "
                "the one that was asked."
                for job in kinds
                if job.label not in recipes
            ]
            kinds = [replace(job, recipe=recipes.get(job.label, recipe)) for job in kinds]
        found = crew.train(
            bench, [replace(job, seed=seed) for seed in numbers for job in kinds], run, advance
        )
    notes += [
        f"{trial.label}, seed {trial.seed}: its layers cannot be taken apart, {trial.unexplained}."
        for trial in found
        if trial.unexplained
    ]
    layers = None if bench.where is None else bench.layers
    study = Study(
        *(bench.task, recipe, tuple(found), blocks),
        notes=tuple(notes),
        layers=layers,
        where=bench.where if isinstance(bench.where, str) else None,
    )
    if not study.rows:
        raise NothingFinite(f"{study.failures[0].failure} (and no other network ended with a finite error)")
    if costs and bench.team.leads:
        study = replace(study, costs=measure(replace(bench, team=ALONE), kinds))
    return study


def _chosen(
    tyings: Sequence[bool | str | Tying] | None, recipe: Recipe, bench: Bench, notes: list[str]
) -> list[Tying]:
    """The tyings, each once, tied among them: in front where it was not given."""
    chosen = list(dict.fromkeys(map(parse, TYINGS[bench.dims] if tyings is None else tyings)))
    reference = parse(REFERENCE)
    chosen = chosen if reference in chosen else [reference, *chosen]
    if recipe.optimizer == "sgd":
        addition = parse(LEVEL_AND_OFFSET[bench.dims])
        notes.append(
            f"Under SGD the level of an untied bias moves slower than a tied one's, by as many times as "
            f"there are places; {addition!r}, which has a level of its own, is compared too. AdamW has no "
            "such trouble."
        )
        chosen = chosen if addition in chosen else [*chosen, addition]
    return chosen


def _few(bench: Bench) -> list[str]:
    """What to say of splits from which little can be told."""
    uses = (
        (bench.validation, "validation", "choose the epoch: it is chosen by chance"),
        (bench.test, "test", "tell the error: of others they say little"),
    )
    return [
        f"Only {count(split)} {name} samples {use}."
        for split, name, use in uses
        if split is not None and count(split) < FEW
    ]


def _normalised_apart(bench: Bench) -> list[str]:
    """What to say of networks that look at the other samples of a batch, where a team shares it out."""
    if bench.team.size == 1 or not any(isinstance(m, _BatchNorm) for m in bench.start(0).modules()):
        return []
    return [
        f"Batch normalisation takes its statistics from each process's share of a batch, a part in "
        f"{bench.team.size}: the numbers are not those of one process alone."
    ]
