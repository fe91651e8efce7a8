"""One network trained, always alike for the same seed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module

from ..nn import param_groups
from .recipe import Recipe, Samples
from .tasks import Task

EVALUATION_BATCH = 256


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
) -> Trained:
    """Train ``model`` in place, to the state of the epoch with the least validation error (else the last).

    The batches and whatever the model draws depend on ``seed`` alone; the caller's generator is left as it
    was. Raises ValueError where the loss is no longer finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(model, training, validation, test, task, recipe, seed, on_epoch)


def _train(
    model: Module,
    training: Samples,
    validation: Samples | None,
    test: Samples,
    task: Task,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[], None],
) -> Trained:
    groups = [group for group in param_groups(model, recipe.weight_decay) if group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    order = torch.Generator().manual_seed(seed)
    inputs, targets = training
    curve: list[float] = []
    best, epoch, state = math.inf, recipe.epochs, None
    for number in range(1, recipe.epochs + 1):
        model.train()
        for batch in torch.randperm(len(inputs), generator=order).split(recipe.batch_size):
            loss = task.loss(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not loss.isfinite():
                raise ValueError(
                    f"learning_rate={recipe.learning_rate}: the loss is {loss.item()} in epoch {number}; "
                    "lower it"
                )
        if validation is not None:
            curve.append(task.error(predict(model, validation[0]), validation[1]))
            if curve[-1] < best:
                best, epoch, state = curve[-1], number, copy.deepcopy(model.state_dict())
        on_epoch()
    if state is not None:
        model.load_state_dict(state)
    return Trained(task.error(predict(model, test[0]), test[1]), epoch, tuple(curve))


@torch.no_grad()
def predict(model: Module, inputs: Tensor) -> Tensor:
    """The outputs in eval mode, a batch at a time."""
    model.eval()
    return torch.cat([model(batch) for batch in inputs.split(EVALUATION_BATCH)])
