"""Many networks at a time, one on many processes, and what is left when a study is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from convbias.study import Run
from convbias.study.comparison import _normalised_apart, compare_on
from convbias.study.crew import Crew, OneByOne, SideBySide
from convbias.study.request import Request
from convbias.study.team import Team

CPU = torch.device("cpu")

# 37 samples in batches of 8: the last one is uneven, and too small for two when there are 33.
MODULE = """
import os
import time

import torch

def series(n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 7, 6, generator=generator)
    y = x.roll(1, 2) + torch.linspace(-1, 1, 7)[:, None]
    return x, y.masked_fill(torch.rand(y.shape, generator=generator) < 0.3, torch.nan)

def data():
    return series(33, 0), series(9, 1), series(9, 2)

def net(width=3):
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(1, width, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(width, 1, 3, padding=1)
    )
    return layers

class Head(torch.nn.Module):
    # with one that it does not use
    def __init__(self, width=3):
        super().__init__()
        self.net, self.unused = net(width), torch.nn.Linear(2, 2)
    def forward(self, x):
        return self.net(x)

class Normal(torch.nn.Sequential):
    def __init__(self):
        super().__init__(net(), torch.nn.BatchNorm2d(1))

class Slower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()
    def forward(self, x):
        time.sleep(0.2 if len(x) > 1 else 0)
        return self.net(x)

class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.dropout = net(), torch.nn.Dropout(0.2)
    def forward(self, x):
        time.sleep(0.004)
        return self.net(self.dropout(x))

class Fatal(Slow):
    def forward(self, x):
        if self.training:
            os._exit(9)
        return self.net(x)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scale_case.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "scale_case", raising=False)
    return tmp_path


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


ASKED: dict[str, Any] = {
    **{"data": "scale_case:data", "task": "regress", "mask": True, "model": "scale_case:net"},
    **{"tyings": ("untied", "rank:1"), "seeds": 2, "epochs": 3, "batch_size": 8},
}
WORDS = [
    *("--data", "scale_case:data", "--task", "regress", "--missing", "mask"),
    *("--tying", "untied", "--tying", "rank:1", "--seeds", "2", "--epochs", "3", "--batch-size", "8"),
]


TORCHRUN = ("torch.distributed.run", "--nproc-per-node=2", "-m", "convbias")


def kept(folder: Path) -> dict[str, Any]:
    files = sorted((folder / "trials").glob("seed *.trial"))
    return {file.name: torch.load(file, weights_only=True) for file in files}


def same(one: dict[str, Any], other: dict[str, Any], exactly: bool) -> None:
    assert one.keys() == other.keys()
    assert len(one) > 1
    relative, absolute = (0.0, 0.0) if exactly else (1e-4, 1e-5)
    for name, trial in one.items():
        for part in ("fields", "tallies"):
            assert_close(trial[part], other[name][part], rtol=relative, atol=absolute)
        numbers, others = trial["numbers"], other[name]["numbers"]
        assert numbers["curve"] == pytest.approx(others["curve"], rel=0 if exactly else 1e-4)
        assert numbers["seed"] == others["seed"]


def test_side_by_side_is_one_by_one(here: Path, one_thread: None) -> None:
    request = Request(**ASKED)
    crews: dict[str, Crew] = {"one": OneByOne(), "two": SideBySide(request.bench, (CPU, CPU), 1)}
    told: dict[str, int] = {}
    for name, crew in crews.items():
        study = compare_on(
            *(request.bench(CPU), request.tyings),
            seeds=2,
            recipe=request.recipe,
            crew=crew,
            run=Run(here / name, {}),
        )
        told[name] = len(study.trials)
        assert {trial.threads for trial in study.trials} == {1}
    assert told == {"one": 8, "two": 8}
    same(kept(here / "one"), kept(here / "two"), exactly=True)


def test_side_by_side_needs_a_folder(here: Path) -> None:
    request = Request(**ASKED)
    crew = SideBySide(request.bench, (CPU, CPU), 1)
    with pytest.raises(ValueError, match="run=None: processes hand their trials over in the folder"):
        compare_on(request.bench(CPU), request.tyings, seeds=1, recipe=request.recipe, crew=crew)


def test_a_process_that_dies_is_named_and_the_rest_is_kept(here: Path) -> None:
    words = ["--model", "scale_case:Fatal", *WORDS]
    ran = command("study", *words, "--jobs", "2", "--out", "run", check=False)
    assert ran.returncode == 2
    assert (
        "the process that trained it ended (exit status 9), perhaps for want of memory; --jobs 1"
        in ran.stderr
    )
    assert "Traceback" not in ran.stderr


def test_an_error_in_a_process_is_the_users(here: Path) -> None:
    words = ["--model", "scale_case:net", *WORDS, "--learning-rate", "1e30", "--jobs", "2", "--out", "run"]
    ran = command("study", *words, check=False)
    assert ran.returncode == 2
    assert "error: learning_rate=1e+30: the loss is" in ran.stderr
    assert "goes on" not in ran.stderr
    assert "Traceback" not in ran.stderr


def command(
    *words: str, check: bool = True, start: tuple[str, ...] = ("convbias",)
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *start, *words],
        capture_output=True,
        text=True,
        check=check,
        env=environment,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("network", "ways"), [("net", ("--ddp",)), ("Head", ("--ddp", "--fsdp", "--device=cpu"))]
)
def test_torchruns_ranks_find_what_one_process_finds(here: Path, network: str, ways: tuple[str, ...]) -> None:
    """Together, or each some of the networks, then bit for bit."""
    words = ["--model", f"scale_case:{network}", *WORDS]
    command("study", *words, "--jobs", "2", "--out", "alone")  # one thread each, as torchrun has it
    expected = kept(here / "alone")
    rows = json.loads((here / "alone" / "results.json").read_text())["rows"]
    for way in ways:
        told = command("study", *words, way, "--out", way[2:], start=TORCHRUN).stderr
        assert "unused parameters" not in told
        same(expected, kept(here / way[2:]), exactly=way == "--device=cpu")
        found = json.loads((here / way[2:] / "results.json").read_text())["rows"]
        for one, other in zip(rows, found, strict=True):
            assert one["error"]["mean"] == pytest.approx(other["error"]["mean"], rel=1e-4)
    # What two processes began beside each other goes on under torchrun.
    for file in (here / "alone" / "trials").glob("seed 1*"):
        file.unlink()
    command("study", "--resume", "alone", start=TORCHRUN)
    same(expected, kept(here / "alone"), exactly=True)


def test_a_rank_waits_for_the_others_however_long_they_train(here: Path) -> None:
    """The second has one network, the first two, and no collective of torch's waits longer than a second."""
    (here / "hasty.py").write_text(
        "from datetime import timedelta\n"
        "import torch.distributed.distributed_c10d as group\n"
        "group.default_pg_timeout = timedelta(seconds=1)\n"
        "from convbias.cli import main\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    words = ["--model", "scale_case:Slower", *WORDS, "--seeds", "1", "--epochs", "2"]
    start = ("torch.distributed.run", "--nproc-per-node=2", "-m", "hasty")
    command("study", *words, "--out", "run", start=start)
    assert len(kept(here / "run")) == 3


def test_batch_normalisation_in_a_team_is_told_of(here: Path) -> None:
    request = replace(Request(**ASKED), model="scale_case:Normal", epochs=1)
    for size, told in ((1, 0), (2, 1)):
        bench = replace(request.bench(CPU), team=Team(0, size))
        notes = _normalised_apart(bench)
        assert len(notes) == told
    assert notes[0].startswith("Batch normalisation takes its statistics from each process's share")
    assert not _normalised_apart(replace(Request(**ASKED).bench(CPU), team=Team(0, 2)))


def test_a_team_needs_torchrun(here: Path) -> None:
    ran = command("study", "--ddp", "--out", "run", check=False)
    assert ran.returncode == 2
    assert "error: ddp: there is one process; torchrun --nproc-per-node=N -m convbias study" in ran.stderr
    assert not (here / "run").exists()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_killed_at_random_moments_a_study_ends_as_if_it_had_not_been(here: Path, jobs: str) -> None:
    words = ["--model", "scale_case:Slow", *WORDS, "--jobs", jobs, "--epochs", "12"]
    command("study", *words, "--out", "whole")
    chance = random.Random(int(jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = ["study", *words, "--out", "broken"]
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "convbias", *started], stderr=subprocess.DEVNULL, env=environment
        )
        while process.poll() is None and not (here / "broken" / "request.json").exists():
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        started = ["study", "--resume", "broken"]
    command(*started)
    same(kept(here / "whole"), kept(here / "broken"), exactly=True)
    whole, broken = (json.loads((here / f / "results.json").read_text()) for f in ("whole", "broken"))
    for part in ("rows", "verdict", "trials"):
        assert whole[part] == broken[part]
