"""One network trained, always alike for the same seed, from wherever it was left."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from ..nn import param_groups
from ..outputs import write_whole
from .recipe import Recipe, Samples
from .tasks import Task

EVALUATION_BATCH = 256
SECONDS_BETWEEN_CHECKPOINTS = 10.0


@dataclass(frozen=True)
class Trained:
    """The error on the test split at ``epoch`` (from 1), and the validation error after each epoch."""

    error: float
    epoch: int
    curve: tuple[float, ...]


def train(
    model: Module,
    training: Samples,
    validation: Samples | None,
    test: Samples,
    task: Task,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[], None] = lambda: None,
    checkpoint: Path | None = None,
) -> Trained:
    """Train ``model`` in place, to the state of the epoch with the least validation error (else the last).

    The batches and whatever the model draws depend on ``seed`` alone; the caller's generator is left as it
    was. ``checkpoint`` is written after an epoch, ten seconds or more after the last time, and is where
    training goes on if it is there: with the same numbers as if it had never stopped.

    Raises ValueError where the loss is no longer finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        run = _Run(model, recipe, seed)
        if checkpoint is not None and checkpoint.exists():
            run.load(torch.load(checkpoint, weights_only=True))
        for _ in range(run.done):
            on_epoch()
        saved = time.monotonic()
        while run.done < recipe.epochs:
            run.epoch(training, task)
            if validation is not None:
                run.judge(task.error(predict(model, validation[0]), validation[1]))
            if checkpoint is not None and time.monotonic() - saved >= SECONDS_BETWEEN_CHECKPOINTS:
                write_whole(checkpoint, lambda file: torch.save(run.state(), file))
                saved = time.monotonic()
            on_epoch()
        run.to_best()
        return Trained(task.error(predict(model, test[0]), test[1]), run.best_epoch, tuple(run.curve))


@final
class _Run:
    """A training under way: everything that has to be as it was for it to go on."""

    def __init__(self, model: Module, recipe: Recipe, seed: int) -> None:
        self.model, self.recipe = model, recipe
        groups = [group for group in param_groups(model, recipe.weight_decay) if group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
        self.order = torch.Generator().manual_seed(seed)
        self.done = 0
        self.curve: list[float] = []
        self.best = math.inf
        self.best_state: dict[str, Tensor] | None = None
        self._best_epoch = 0

    @property
    def best_epoch(self) -> int:
        return self._best_epoch or self.done

    def epoch(self, training: Samples, task: Task) -> None:
        inputs, targets = training
        self.model.train()
        for batch in torch.randperm(len(inputs), generator=self.order).split(self.recipe.batch_size):
            loss = task.loss(self.model(inputs[batch]), targets[batch])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if not loss.isfinite():
                raise ValueError(
                    f"learning_rate={self.recipe.learning_rate}: the loss is {loss.item()} in epoch "
                    f"{self.done + 1}; lower it"
                )
        self.done += 1

    def judge(self, error: float) -> None:
        self.curve.append(error)
        if error < self.best:
            self.best, self._best_epoch = error, self.done
            self.best_state = copy.deepcopy(self.model.state_dict())

    def to_best(self) -> None:
        if self.best_state is not None:
            self.model.load_state_dict(self.best_state)

    def state(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.get_state(),
            "generator": torch.get_rng_state(),
            "done": self.done,
            "curve": self.curve,
            "best": (self.best, self._best_epoch),
            "best_state": None if self.best_state is None else dict(self.best_state),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.order.set_state(state["order"])
        torch.set_rng_state(state["generator"])
        self.done, self.curve = state["done"], list(state["curve"])
        self.best, self._best_epoch = state["best"]
        self.best_state = state["best_state"]


@torch.no_grad()
def predict(model: Module, inputs: Tensor) -> Tensor:
    """The outputs in eval mode, a batch at a time."""
    model.eval()
    return torch.cat([model(batch) for batch in inputs.split(EVALUATION_BATCH)])
