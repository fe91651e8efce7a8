"""What a training step takes under each tying, with nothing beside it."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from . import samples
from .bench import Bench
from .jobs import Job
from .training import Training

WARM_UP, LEAST, MOST, SECONDS = 3, 5, 50, 1.0


@final
@dataclass(frozen=True)
class Cost:
    """Of one training step: the median of its seconds, and the most bytes alive in it.

    The bytes are parameters, gradients, the optimizer's state, activations and whatever else operators
    return in the step; None where nobody sees them. ``threads`` is how many there were.
    """

    seconds: float
    bytes: int | None
    threads: int


def measure(bench: Bench, jobs: Sequence[Job]) -> dict[str, Cost]:
    """The cost of a step of each job, by label. The steps take turns, so that a busy machine hits all."""
    size = min(jobs[0].recipe.batch_size, samples.count(bench.train))
    with samples.seeded("costs"):
        inputs, targets = samples.batch(bench.train, torch.arange(size))
        trainings = {job.label: _begun(bench, job) for job in jobs}
        for training in trainings.values():
            for _ in range(WARM_UP):
                training.step(inputs, targets)
        times: dict[str, list[float]] = {label: [] for label in trainings}
        begun = time.perf_counter()
        for turn in range(MOST):
            if turn >= LEAST and time.perf_counter() - begun > SECONDS * len(trainings):
                break
            for label, training in trainings.items():
                times[label].append(_seconds(training, inputs, targets))
        return {
            label: Cost(
                statistics.median(times[label]),
                peak_bytes(training, lambda training=training: training.step(inputs, targets)),
                torch.get_num_threads(),
            )
            for label, training in trainings.items()
        }


def peak_bytes(training: Training, step: Callable[[], object]) -> int | None:
    """The most bytes alive at once in ``step``, of which the training's own tensors are alive before it.

    None where the network is compiled and nobody sees what it allocates on the CPU.
    """
    if training.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(training.device)
        step()
        return torch.cuda.max_memory_allocated(training.device)
    if training.recipe.compiled:
        return None
    watch = _Watch(_alive(training))
    with watch:
        step()
    return watch.most


@final
class _Watch(TorchDispatchMode):
    """Adds up the storages that operators return, until they are gone again."""

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()
        self._seen: dict[int, weakref.finalize[Any, Any]] = {}
        self.alive = self.most = 0
        for tensor in before:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        self.most = max(self.most, self.alive)
        return found

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self.alive += size
            self._seen[key] = weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        del self._seen[key]
        self.alive -= size


def _begun(bench: Bench, job: Job) -> Training:
    network = bench.retied(job).to(bench.device).train()
    return Training(network, bench.task, job.recipe, job.seed, bench.device)


def _seconds(training: Training, inputs: Tensor, targets: Tensor) -> float:
    begun = time.perf_counter()
    training.step(inputs, targets)
    if training.device.type == "cuda":
        torch.cuda.synchronize(training.device)
    return time.perf_counter() - begun


def _alive(training: Training) -> Iterator[Tensor]:
    for parameter in training.network.parameters():
        yield parameter
        if parameter.grad is not None:
            yield parameter.grad
    yield from training.network.buffers()
    for state in training.optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
