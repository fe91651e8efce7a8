"""Who trains the networks of a study: this process, several beside each other, or torchrun's ranks."""

from __future__ import annotations

import contextlib
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, final

import torch
import torch.distributed as dist

from .bench import Bench
from .jobs import Job, Trial
from .memory import keep_freed
from .progress import Advance
from .runs import Run


class Crew(ABC):
    """Trains jobs. Abstract."""

    @abstractmethod
    def train(self, bench: Bench, jobs: Sequence[Job], run: Run | None, advance: Advance) -> list[Trial]:
        """The trials of ``jobs``, in their order; what ``run`` has finished before is not trained again."""


@final
@dataclass(frozen=True)
class OneByOne(Crew):
    """One after another, in this process; a team of the bench trains each together."""

    def train(self, bench: Bench, jobs: Sequence[Job], run: Run | None, advance: Advance) -> list[Trial]:
        return [_trial(bench, job, run, advance) for job in jobs]


@final
@dataclass(frozen=True)
class SideBySide(Crew):
    """As many at a time as there are ``devices``, each in a process of its own, with ``threads`` threads.

    ``make_bench(device)`` makes the bench there, so it has to be a function that can be pickled. Ctrl-C
    and the end of this process, however it comes, end the others too.
    """

    make_bench: Callable[[torch.device], Bench]
    devices: tuple[torch.device, ...]
    threads: int

    def train(self, bench: Bench, jobs: Sequence[Job], run: Run | None, advance: Advance) -> list[Trial]:
        if run is None:
            raise ValueError("run=None: processes hand their trials over in the folder of a run; give one")
        left = [job for job in jobs if run.finished(job) is None]
        for job in jobs:
            if job not in left:
                advance(_told(job), job.recipe.epochs)
        spawn = multiprocessing.get_context("spawn")
        workers: dict[Connection, Any] = {}
        try:
            for device in self.devices[: len(left)]:
                here, there = spawn.Pipe()
                words = (there, self.make_bench, device, self.threads, run)
                process = spawn.Process(target=_serve, args=words, daemon=True)
                process.start()
                there.close()
                workers[here] = process
            self._hand_out(left, workers, advance)
        finally:
            for connection, process in workers.items():
                connection.close()
                process.terminate()
                process.join()
        return [trial for job in jobs if (trial := run.finished(job)) is not None]

    @staticmethod
    def _hand_out(jobs: list[Job], workers: dict[Connection, Any], advance: Advance) -> None:
        left, at_work = jobs[::-1], {}
        for worker in workers:
            worker.send(left[-1])
            at_work[worker] = left.pop()
        while at_work:
            for worker in wait(list(at_work)):
                assert isinstance(worker, Connection)  # noqa: S101
                job = at_work[worker]
                try:
                    kind, content = worker.recv()
                except EOFError:
                    workers[worker].join()
                    raise ValueError(
                        f"{_told(job)}: the process that trained it ended (exit status "
                        f"{workers[worker].exitcode}), perhaps for want of memory; --jobs 1 needs less"
                    ) from None
                if kind == "failed":
                    raise content
                if kind == "epoch":
                    advance(_told(job), content)
                elif left:
                    worker.send(left[-1])
                    at_work[worker] = left.pop()
                else:
                    del at_work[worker]


@final
@dataclass(frozen=True)
class Ranks(Crew):
    """Spread over the processes of torch.distributed's default group, which all have the same bench."""

    def train(self, bench: Bench, jobs: Sequence[Job], run: Run | None, advance: Advance) -> list[Trial]:
        rank, size = dist.get_rank(), dist.get_world_size()
        mine = {
            i: _trial(bench, job, run, advance) for i, job in enumerate(jobs) if (i + job.seed) % size == rank
        }
        everyones: list[dict[int, Trial]] = [{} for _ in range(size)]
        dist.all_gather_object(everyones, mine)
        found = {i: trial for trials in everyones for i, trial in trials.items()}
        return [found[i] for i in range(len(jobs))]


def _trial(bench: Bench, job: Job, run: Run | None, advance: Advance) -> Trial:
    """Train one here, unless it is finished."""
    team = bench.team
    trial = team.told(lambda: None if run is None else run.finished(job))
    if trial is not None:
        advance(_told(job), job.recipe.epochs)
        return trial
    left = job.recipe.epochs

    def on_epoch() -> None:
        nonlocal left
        left -= 1
        advance(_told(job), 1)

    trial = bench.run(job, on_epoch, None if run is None else run.checkpoint(job))
    if left:  # it failed before
        advance(_told(job), left)
    if run is not None and team.leads:
        run.keep(job, trial)
    return trial


def _told(job: Job) -> str:
    if job.tuning:
        return f"tuning {job.label}, {job.recipe.learning_rate:.3g}, {job.recipe.weight_decay:.3g}"
    return f"{job.label}, seed {job.seed}"


def _serve(
    connection: Connection,
    make_bench: Callable[[torch.device], Bench],
    device: torch.device,
    threads: int,
    run: Run,
) -> None:
    """A worker's life: jobs come in, ticks and ends go out, until the other end is closed."""
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        torch.set_num_threads(threads)
        keep_freed()
        try:
            bench = make_bench(device)
            while True:
                job = connection.recv()
                _trial(bench, job, run, lambda _, epochs: connection.send(("epoch", epochs)))
                connection.send(("done", None))
        except Exception as error:
            if isinstance(error, (EOFError, BrokenPipeError)):
                raise
            # Not every exception can be pickled; what it says can.
            kind = type(error) if isinstance(error, ValueError) else ValueError
            told = error if kind is type(error) else ValueError(f"{type(error).__name__}: {error}")
            connection.send(("failed", told))
