"""One network trained, always alike for the same seed, from wherever it was left."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.nn import Module

from ..nn import param_groups
from .recipe import Recipe
from .samples import Samples, batch, count, number_of, seeded
from .saving import load, save
from .tasks import Task
from .team import ALONE, Team

EVALUATION_BATCH = 256
SECONDS_BETWEEN_CHECKPOINTS = 10.0
MOMENTUM = 0.9


class Diverged(ValueError):
    """The numbers are no longer finite, after ``epoch`` epochs with the validation errors ``curve``."""

    def __init__(self, told: str, epoch: int, curve: tuple[float, ...]) -> None:
        self.told, self.epoch, self.curve = told, epoch, curve
        super().__init__(told)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.told, self.epoch, self.curve)


class Raised(ValueError):
    """What a network raised when it was called."""


@contextmanager
def calling() -> Generator[None]:
    """Turn whatever a network raises, or an exit, into ``Raised``: it is foreign code."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise Raised(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Trained:
    """The epoch (from 1) whose state the network now has, and the validation error after each epoch."""

    epoch: int
    curve: tuple[float, ...]


def train(
    network: Module,
    training: Samples,
    validation: Samples | None,
    task: Task,
    recipe: Recipe,
    seed: int,
    *,
    device: torch.device,
    team: Team = ALONE,
    on_epoch: Callable[[], None] = lambda: None,
    checkpoint: Path | None = None,
) -> Trained:
    """Train ``network`` in place, to the state of the epoch with the least validation error (else the last).

    The batches of an epoch and whatever is drawn in it depend on ``seed`` and the epoch alone; the caller's
    generators are left as they were. ``checkpoint`` is written after an epoch, ten seconds or more after
    the last time, and is where training goes on if it is there: with the same numbers as if it had never
    stopped.

    Raises Diverged where the loss or the validation error is no longer finite, and Raised where the network
    raises something.
    """
    with calling():
        together = team.wrapped(network, lambda: _example(training).to(device))
    run = Training(together, task, recipe, seed, device, team)
    if checkpoint is not None:
        found = team.told(lambda: load(checkpoint))
        if found is not None:
            run.load(found)
    for _ in range(run.done):
        on_epoch()
    saved = time.monotonic()
    while run.done < recipe.epochs:
        run.epoch(training)
        if validation is not None:
            run.judge(validation)
        late = time.monotonic() - saved >= SECONDS_BETWEEN_CHECKPOINTS
        if checkpoint is not None and team.told(lambda late=late: late):
            state = run.state()
            if team.leads:
                save(state, checkpoint)
            saved = time.monotonic()
        on_epoch()
    network.load_state_dict(run.best_state or team.state(run.network))
    return Trained(run.best_epoch or run.done, tuple(run.curve))


def _example(samples: Samples) -> Tensor:
    """One input."""
    with seeded("example"):
        return batch(samples, torch.arange(1))[0]


@torch.no_grad()
def tallies(
    network: Module,
    samples: Samples,
    task: Task,
    recipe: Recipe,
    *,
    device: torch.device,
    team: Team = ALONE,
) -> Tensor:
    """What each sample adds to the task's error, (N, M), with ``network`` in eval mode."""
    network.eval()
    found: list[Tensor] = []
    with seeded("evaluation"), _autocast(recipe, device):
        for indices in torch.arange(count(samples)).split(EVALUATION_BATCH):
            mine, counting = team.share(indices)
            inputs, targets = (part.to(device) for part in batch(samples, mine))
            with calling():
                found.append(task.tallies(network(inputs), targets)[:counting].cpu())
    return torch.cat(team.gathered(found))


@final
class Training:
    """A training under way: everything that has to be as it was for it to go on.

    ``network`` is wrapped as ``team`` trains it.
    """

    def __init__(
        self, network: Module, task: Task, recipe: Recipe, seed: int, device: torch.device, team: Team = ALONE
    ) -> None:
        self.task, self.recipe, self.seed, self.device, self.team = task, recipe, seed, device, team
        self.network = network
        self.called = cast(Module, torch.compile(self.network)) if recipe.compiled else self.network
        groups = [group for group in param_groups(self.network, recipe.weight_decay) if group["params"]]
        # A tenth of a small network's step; torch has no fused one for complex numbers.
        known = {"lr": recipe.learning_rate, "fused": not any(p.is_complex() for p in network.parameters())}
        self.optimizer = (
            torch.optim.AdamW(groups, **known)
            if recipe.optimizer == "adamw"
            else torch.optim.SGD(groups, **known, momentum=MOMENTUM, nesterov=True)
        )
        self.done = 0
        self.curve: list[float] = []
        self.best = math.inf
        self.best_epoch = 0
        self.best_state: dict[str, Tensor] | None = None

    def epoch(self, training: Samples) -> None:
        generator = torch.Generator().manual_seed(number_of("order", self.seed, self.done))
        order = torch.randperm(count(training), generator=generator)
        total = torch.zeros((), device=self.device)
        self.network.train()
        with seeded("epoch", self.seed, self.done, self.team.rank):
            for indices in order.split(self.recipe.batch_size):
                mine, counting = self.team.share(indices)
                total += self.step(*batch(training, mine), counting)
        total = self.team.summed(total)
        if not total.isfinite():
            raise self._diverged(f"the loss is {total.item()}", self.done + 1)
        self.done += 1

    def step(self, inputs: Tensor, targets: Tensor, counting: int = 1) -> Tensor:
        """One step of the optimizer on a batch; the loss. 0 counting: only to take part with the team."""
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        with calling():
            with _autocast(self.recipe, self.device):
                loss = self.task.loss(self.called(inputs), targets)
            loss = self.team.weighted(loss, self.task.terms(targets) if counting else 0)
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()
        return loss.detach()

    def judge(self, validation: Samples) -> None:
        found = tallies(self.called, validation, self.task, self.recipe, device=self.device, team=self.team)
        error = self.task.error(found.sum(0)).item()
        if not math.isfinite(error):
            raise self._diverged(f"the validation error is {error}", self.done)
        self.curve.append(error)
        if error < self.best:
            self.best, self.best_epoch = error, self.done
            self.best_state = copy.deepcopy(self.team.state(self.network))

    def _diverged(self, what: str, epoch: int) -> Diverged:
        rate = self.recipe.learning_rate
        told = f"learning_rate={rate}: {what} in epoch {epoch}; lower it, or mend the network"
        return Diverged(told, epoch - 1, tuple(self.curve))

    def state(self) -> dict[str, Any]:
        return {
            "model": self.team.state(self.network),
            "optimizer": self.team.optimizer_state(self.network, self.optimizer),
            "done": self.done,
            "curve": self.curve,
            "best": (self.best, self.best_epoch),
            "best_state": self.best_state,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.team.load(self.network, state["model"])
        self.team.load_optimizer(self.network, self.optimizer, state["optimizer"])
        self.done, self.curve = state["done"], list(state["curve"])
        self.best, self.best_epoch = state["best"]
        self.best_state = state["best_state"]


def _autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    low = recipe.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16) if low else nullcontext()
