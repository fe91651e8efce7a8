"""The comparison: one network, trained under each tying from the same start on the same batches."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module

from ..nn import retie
from ..nn.biased import Biased
from ..nn.probe import probe
from ..nn.surgery import Where
from ..tying import Tying, parse
from . import training
from .data import check_samples
from .progress import bar
from .recipe import Recipe, Samples
from .runs import Run, Trial
from .statistics import LEVEL, Estimate, estimate, holm, p_value, paired
from .tasks import Classification, Task

TYINGS = ("none", "tied", "tap", "c h + c w", "rank:1", "untied")
SEEDS = 5
REFERENCE = "tied"


@dataclass(frozen=True)
class Row:
    """One tying: its error over the seeds and, but for tied itself, its paired difference from tied.

    ``p`` is the difference's p-value, corrected for the number of tyings (Holm); below 0.05 it is found.
    """

    tying: str
    parameters: int
    error: Estimate
    difference: Estimate | None
    p: float | None

    @property
    def found(self) -> bool:
        """Whether there is a difference from tied."""
        return self.p is not None and self.p < 1 - LEVEL


@dataclass(frozen=True)
class Study:
    """The trials of a comparison, ``metric`` being what ``error`` means, the lower the better."""

    metric: str
    recipe: Recipe
    trials: tuple[Trial, ...]

    @property
    def seeds(self) -> int:
        """How many seeds were trained."""
        return len({trial.seed for trial in self.trials})

    @property
    def rows(self) -> tuple[Row, ...]:
        """The table, in the order of the tyings."""
        errors = self.errors
        parameters = {trial.tying: trial.parameters for trial in self.trials}
        reference = errors.get(REFERENCE, {})
        apart = {
            tying: [] if tying == REFERENCE else paired(by_seed, reference)
            for tying, by_seed in errors.items()
        }
        corrected = holm([p_value(values) for values in apart.values()])
        return tuple(
            Row(
                tying,
                parameters[tying],
                estimate([*errors[tying].values()]),
                estimate(values) if values else None,
                p,
            )
            for (tying, values), p in zip(apart.items(), corrected, strict=True)
        )

    @property
    def errors(self) -> dict[str, dict[int, float]]:
        """The errors by tying and seed."""
        found: dict[str, dict[int, float]] = {}
        for trial in self.trials:
            found.setdefault(trial.tying, {})[trial.seed] = trial.error
        return found

    @property
    def choice(self) -> Row:
        """The tying to take: of those that beat tied, the smallest that the best one is not found to beat.

        Tied, where none is found to be better.
        """
        better = [row for row in self.rows if row.found and row.difference and row.difference.mean < 0]
        if not better:
            return next(row for row in self.rows if row.tying == REFERENCE)
        best = min(better, key=lambda row: row.error.mean)

        def as_good(row: Row) -> bool:
            p = p_value(paired(self.errors[row.tying], self.errors[best.tying]))
            return p is None or p >= 1 - LEVEL

        return min((row for row in better if row is best or as_good(row)), key=lambda row: row.parameters)

    @property
    def curves(self) -> dict[str, list[tuple[float, ...]]]:
        """The validation errors after each epoch, by tying, for every seed."""
        found: dict[str, list[tuple[float, ...]]] = {}
        for trial in self.trials:
            found.setdefault(trial.tying, []).append(trial.curve)
        return found

    @property
    def fields(self) -> dict[str, Mapping[str, Tensor]]:
        """The bias fields (C, *out) that the first seed learned, by tying and layer."""
        first = self.trials[0].seed
        return {trial.tying: trial.fields for trial in self.trials if trial.seed == first}


def compare(
    make_model: Callable[[], Module],
    train: Samples,
    test: Samples,
    *,
    validation: Samples | None = None,
    task: Task | None = None,
    tyings: Sequence[bool | str | Tying] = TYINGS,
    where: Where = None,
    seeds: int | Sequence[int] = SEEDS,
    recipe: Recipe | None = None,
    run: Run | None = None,
) -> Study:
    """Train the network that ``make_model`` makes under each tying, and compare the errors on the test split.

    For each seed one network with tied biases is made, and each tying starts from it through
    :func:`convbias.retie`: finer ones as the very same function. Batches, their order and whatever the
    network draws are the same for every tying, so differences are paired by seed. Samples are inputs and
    targets, ``(N, …)`` each. The state that counts is that of the epoch with the least validation error, or
    of the last one without a validation split; the test split chooses nothing. Tied is always compared.
    ``where`` chooses the layers, as in ``retie``.

    Warns of layers that cannot have a tying and keep the bias that they had.

    Raises DataError for samples that cannot be used, TyingError for spellings that cannot be read and
    SurgeryError for tyings that no layer can have: all before anything is trained.

    >>> x, y = torch.randn(20, 1, 6, 6), torch.arange(20) % 2
    >>> def net():
    ...     return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                                torch.nn.Linear(32, 2))
    >>> study = compare(net, (x, y), (x, y), tyings=["untied"], seeds=2, recipe=Recipe(epochs=1))
    >>> [(row.tying, row.parameters) for row in study.rows]
    [('tied', 86), ('untied', 116)]
    """
    task, recipe = task or Classification(), recipe or Recipe()
    splits = {"train": train, "validation": validation, "test": test}
    for name, samples in splits.items():
        if samples is not None:
            check_samples(name, *samples)
    chosen = _with_reference(tyings)
    numbers = _seeds(seeds)
    example = train[0][:1]
    with _seeded(numbers[0]):
        network = make_model()
    _check_network(network, train, task)
    for tying in chosen:
        for row in retie(network, tying, example, where).report:
            if row.reason is not None:
                warnings.warn(f"under {tying!r}, layer {row}", stacklevel=2)

    trials: list[Trial] = []
    with bar(len(chosen) * len(numbers) * recipe.epochs) as advance:
        for seed in numbers:
            with _seeded(seed):
                start = make_model()
            for tying in chosen:
                trial = None if run is None else run.finished(repr(tying), seed)
                if trial is None:
                    with _seeded(seed):  # the directions of a rank start at random
                        model = retie(start, tying, example, where).model
                    trained = training.train(
                        *(model, train, validation, test, task, recipe, seed),
                        on_epoch=lambda label=f"{tying!r}, seed {seed}": advance(label, 1),
                        checkpoint=None if run is None else run.checkpoint(repr(tying), seed),
                    )
                    trial = _trial(repr(tying), seed, model, trained, example)
                    if run is not None:
                        run.keep(trial)
                else:
                    advance(f"{tying!r}, seed {seed}", recipe.epochs)
                trials.append(trial)
    return Study(task.metric, recipe, tuple(trials))


def _trial(tying: str, seed: int, model: Module, trained: training.Trained, example: Tensor) -> Trial:
    parameters = sum(p.numel() for p in model.parameters())
    fields = _fields(model, example)
    return Trial(tying, seed, parameters, trained.error, trained.epoch, trained.curve, fields)


def _check_network(network: Module, train: Samples, task: Task) -> None:
    """Raise ValueError for a network that does not take the data, or whose outputs are not the targets'."""
    # The largest target: of classes, the one that a network may have too few outputs for.
    largest = int(train[1].flatten(1).amax(1).argmax() if train[1].dim() > 1 else train[1].argmax())
    inputs, targets = (part[largest : largest + 1] for part in train)
    name = f"model={type(network).__name__}"
    with torch.no_grad():
        try:
            output = copy.deepcopy(network).eval()(inputs)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            raise ValueError(f"{name}: does not take the data {tuple(inputs.shape)}, {told}") from error
        try:
            task.error(output, targets)
            task.loss(output, targets)
        except Exception as error:
            shapes = f"{tuple(getattr(output, 'shape', ()))} do not suit the targets {tuple(targets.shape)}"
            raise ValueError(f"{name}: its outputs {shapes}, {type(error).__name__}: {error}") from error


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """torch's generator at ``seed`` inside, and as it was outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _with_reference(tyings: Sequence[bool | str | Tying]) -> list[Tying]:
    """The tyings, each once, tied among them: in front where it was not given."""
    parsed = list(dict.fromkeys(map(parse, tyings)))
    reference = parse(REFERENCE)
    return parsed if reference in parsed else [reference, *parsed]


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    if not numbers:
        raise ValueError(f"seeds={seeds}: at least one is needed, and two for an interval")
    return numbers


def _fields(model: Module, example: Tensor) -> dict[str, Tensor]:
    """The bias field of each layer at the size that ``example`` gives it."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Biased)}
    fields: dict[str, Tensor] = {}
    for name, calls in probe(model, list(layers), example).items():
        input_size, output_size = min(calls.sizes)
        fields[name] = layers[name].bias_field(output_size, input_size=input_size).detach().clone()
    return fields
