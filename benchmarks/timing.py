"""How the benchmarks measure: in turn, warm, with the cores kept awake."""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from elsewhere import Elsewhere

Run = Callable[[], object]


@contextmanager
def awake() -> Iterator[None]:
    """A spinner of idle priority on each core: a virtual machine's host parks cores that look idle."""
    spinners = [multiprocessing.Process(target=_spin, args=(core,), daemon=True) for core in _cores()]
    for spinner in spinners:
        spinner.start()
    time.sleep(1)
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.terminate()


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setscheduler") else []


def _spin(core: int) -> None:
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while os.getppid() != 1:
        for _ in range(10_000_000):
            pass


def milliseconds(runs: dict[str, Run], samples: int, device: str = "cpu") -> dict[str, tuple[float, float]]:
    """Each one's lower fifth and median, A B C … C B A so that what disturbs the machine disturbs all.

    Every sample is of one call, or of as many as take a millisecond, after a call that is not counted.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    once = {name: _seconds(run, 1, device) for name, run in runs.items()}
    repeats = {name: max(1, int(1e-3 / seconds)) for name, seconds in once.items()}
    # Short ones are disturbed more, and cost little: ten times as often at most.
    samples = max(samples, min(10 * samples, int(0.2 / max(once.values()))))
    for sample in range(samples):
        for name in list(runs) if sample % 2 else reversed(runs):
            seconds = _seconds(runs[name], repeats[name], device)
            taken[name].append(1e3 * seconds / repeats[name])
    return {name: (sorted(all_)[len(all_) // 5], statistics.median(all_)) for name, all_ in taken.items()}


def _seconds(run: Run, repeats: int, device: str) -> float:
    """How long so many calls take, after one that is not counted."""
    if isinstance(run, Elsewhere):
        return run.seconds(repeats)
    run()
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def machine(device: str, threads: int, kept: bool = False) -> str:
    """What the figures were measured on, in a line; whether malloc had ``kept`` freed memory."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    memory = f"{platform.libc_ver()[0]} malloc" + ", freed memory kept" * kept
    return f"{name}, {capability}, {threads} threads, torch {torch.__version__}, {memory}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
