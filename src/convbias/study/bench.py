"""The bench that every network of a study is trained on, alike but for the tying."""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from ..errors import DataError
from ..nn import decompose, retie
from ..nn.biased import Biased
from ..nn.probe import probe
from ..nn.surgery import OURS, Where
from ..tying import Tying
from . import samples, training
from .jobs import Job, Trial
from .samples import Samples, seeded
from .tasks import IGNORED, Classification, Segmentation, Task, unseen
from .team import ALONE, Team

# How many test samples a trained network is taken apart on: more would take more memory than training.
TAKEN_APART = 16


@final
@dataclass(frozen=True, eq=False)
class Bench:
    """A network's factory, the data, the task, and where it all runs.

    ``where`` chooses layers as in :func:`convbias.retie`.
    """

    make_model: Callable[..., Module]
    train: Samples
    validation: Samples | None
    test: Samples
    task: Task
    where: Where = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    team: Team = ALONE

    def start(self, seed: int, width: int | None = None) -> Module:
        """The network with tied biases that every tying starts from."""
        with seeded("start", seed):
            return self.make_model() if width is None else self.make_model(width=width)

    def retied(self, job: Job) -> Module:
        """The start of ``job``: finer tyings than tied are the very same function."""
        start = self.start(job.seed, job.width)
        with seeded("retie", job.seed):  # the directions of a rank start at random
            return retie(start, job.tying, self.example, self.where).model

    def run(
        self, job: Job, on_epoch: Callable[[], None] = lambda: None, checkpoint: Path | None = None
    ) -> Trial:
        """Train one network and judge it; one whose numbers are not finite is a trial with a failure.

        Raises ValueError for a network that raises something when it is called.
        """
        network = self.retied(job).to(self.device)
        try:
            return self._judged(job, network, on_epoch, checkpoint)
        except training.Diverged as error:
            return self._trial(
                job, network, error=math.inf, epoch=error.epoch, curve=error.curve, failure=error.told
            )
        except training.Raised as error:
            raise ValueError(
                f"model={type(network).__name__}: under {job.label}, seed {job.seed}, it raises {error}; "
                "mend it, or the data that it is given"
            ) from error

    def _judged(
        self, job: Job, network: Module, on_epoch: Callable[[], None], checkpoint: Path | None
    ) -> Trial:
        place = {"device": self.device, "team": self.team}
        trained = training.train(
            *(network, self.train, self.validation, self.task, job.recipe, job.seed),
            **place,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
        )
        if job.tuning:
            return self._trial(
                job, network, error=min(trained.curve), epoch=trained.epoch, curve=trained.curve
            )
        found = training.tallies(network, self.test, self.task, job.recipe, **place)
        error = self.task.error(found.sum(0)).item()
        if not math.isfinite(error):
            raise training.Diverged(f"the error on the test split is {error}", trained.epoch, trained.curve)
        explained = self._explained(network.cpu())
        known = {"error": error, "epoch": trained.epoch, "curve": trained.curve, "tallies": found}
        return self._trial(job, network, **known, **explained)

    def _trial(self, job: Job, network: Module, **found: Any) -> Trial:
        return Trial(
            tying=repr(job.tying),
            seed=job.seed,
            width=job.width,
            recipe=asdict(job.recipe),
            parameters=parameters(network),
            threads=torch.get_num_threads(),
            **{"shares": {}, "fields": {}, "tallies": torch.zeros(0), **found},
        )

    @property
    def example(self) -> Tensor:
        """One input."""
        with seeded("example"):
            return samples.batch(self.train, torch.tensor([0]))[0]

    def fingerprint(self, seeds: Iterable[int]) -> str:
        """A digest of the networks that the seeds start from, which tells whether they are the same."""
        digest = hashlib.sha256()
        for seed in seeds:
            network = self.start(seed)
            # Some layers show functions, with their addresses.
            digest.update(re.sub("0x[0-9a-f]+", "", repr(network)).encode())
            for name, value in network.state_dict().items():
                digest.update(name.encode())
                if isinstance(value, Tensor) and not is_lazy(value):
                    digest.update(repr((value.dtype, value.cpu().tolist())).encode())
        return digest.hexdigest()[:16]

    @property
    def base_width(self) -> int | None:
        """The default of the factory's argument ``width``, if it has one."""
        try:
            found = inspect.signature(self.make_model).parameters.get("width")
        except (TypeError, ValueError):
            return None
        return found.default if found is not None and isinstance(found.default, int) else None

    @property
    def dims(self) -> int:
        """Of the first convolution: 1 to 3. A network without one has none to compare."""
        kinds = [*OURS, *OURS.values()]
        layers = (m for m in self.start(0).modules() if isinstance(m, tuple(kinds)))
        return next((len(layer.kernel_size) for layer in layers), 2)  # pyright: ignore

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of those that ``where`` chooses."""
        return tuple(row.name for row in retie(self.start(0), "tied", self.example, self.where).report)

    def check(self, tyings: Iterable[Tying]) -> None:
        """Raise ValueError for what cannot be trained, and warn of layers that keep the bias they had."""
        missing = bool(getattr(self.task, "missing", False))
        for name, split in self._splits:
            samples.check(name, split, missing_targets=missing)
        if isinstance(self.task, (Classification, Segmentation)):
            _check_labels(self._splits, self.task)
        network = self.start(0)
        self._check_network(network)
        for tying in tyings:
            for row in retie(network, tying, self.example, self.where).report:
                if row.reason is not None:
                    warnings.warn(f"under {tying!r}, layer {row}", stacklevel=3)

    @property
    def _splits(self) -> list[tuple[str, Samples]]:
        named = (("train", self.train), ("validation", self.validation), ("test", self.test))
        return [(name, split) for name, split in named if split is not None]

    def _check_network(self, network: Module) -> None:
        """Raise ValueError for a network that does not take the data, or gives what is no answer."""
        # The largest target: of classes, the one that a network may have too few outputs for.
        largest = samples.survey("train", self.train).largest
        with seeded("check"):
            inputs, targets = samples.batch(self.train, torch.tensor([largest]))
        name = f"model={type(network).__name__}"
        with torch.no_grad():
            try:
                output = copy.deepcopy(network).eval()(inputs)
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
                raise ValueError(f"{name}: does not take the data {tuple(inputs.shape)}, {told}") from error
            try:
                self.task.error(self.task.tallies(output, targets).sum(0))
                self.task.loss(output, targets)
            except Exception as error:
                shape = tuple(getattr(output, "shape", ()))
                raise ValueError(
                    f"{name}: its outputs {shape} do not suit the targets {tuple(targets.shape)}, "
                    f"{type(error).__name__}: {error}"
                ) from error

    def _explained(self, network: Module) -> dict[str, Any]:
        """The bias fields and shares of a trained network, or why it has none: it is as good without."""
        try:
            return {"shares": self._shares(network), "fields": self._fields(network)}
        except (Exception, SystemExit) as error:
            return {"unexplained": f"{type(error).__name__}: {error}"}

    def _fields(self, network: Module) -> dict[str, Tensor]:
        """The bias field of each layer at the size that an input gives it."""
        layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, Biased)}
        found: dict[str, Tensor] = {}
        for name, calls in probe(network, list(layers), self.example).items():
            input_size, output_size = min(calls.sizes)
            found[name] = layers[name].bias_field(output_size, input_size=input_size).detach().clone()
        return found

    def _shares(self, network: Module) -> dict[str, dict[str, float]]:
        number = min(TAKEN_APART, samples.count(self.test))
        with seeded("shares"):
            inputs, _ = samples.batch(self.test, torch.arange(number))
        return {name: dict(parts.shares) for name, parts in decompose(network, inputs).items()}


def parameters(network: Module) -> int:
    """How many numbers are learned."""
    return sum(p.numel() for p in network.parameters())


def _check_labels(splits: list[tuple[str, Samples]], task: Classification | Segmentation) -> None:
    """Raise DataError for what is no label, and for classes that training never shows and so cannot teach."""
    known = frozenset[int]()
    for name, split in splits:
        found = samples.survey(name, split)
        if not found.whole:
            raise DataError(name, "labels must be whole numbers; targets.long() makes them so")
        labels = found.classes - {IGNORED} if isinstance(task, Segmentation) else found.classes
        if not labels:
            raise DataError(name, "every target is missing")
        if min(labels) < 0:
            raise DataError(name, f"the label {min(labels)} is no class; they are numbered from 0")
        known = known or labels
        missing = sorted(labels - known)
        if missing and not (isinstance(task, Classification) and task.unseen):
            raise unseen(name, missing)
