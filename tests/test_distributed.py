"""Two processes, each with half of the batch, train as one with all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing import assert_close

from layer_cases import Case, plain, uneven

WORLD, STEPS, BATCH = 2, 2, 4
TYINGS = ("tied", "untied", "h w", "", "tap", "c + h w", "rank:2", "grid:3", "sym:d4", "Regions")


def make(case: Case) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(case.make(torch.float32), nn.Tanh(), nn.Conv2d(4, 1, 1))


def batch(step: int) -> Tensor:
    return torch.randn(BATCH, 2, 6, 6, generator=torch.Generator().manual_seed(step))


def train(model: nn.Module, rows: slice) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(STEPS):
        optimizer.zero_grad()
        # The mean over each half: their mean is that over the batch.
        torch.stack([uneven(y) for y in model(batch(step)[rows])]).mean().backward()
        optimizer.step()


def alone(tying: str) -> dict[str, Tensor]:
    model = make(plain(tying))
    train(model, slice(None))
    return model.state_dict()


def wrapped(tying: str, rank: int) -> dict[str, Any]:
    model = nn.parallel.DistributedDataParallel(make(plain(tying)))
    train(model, slice(rank * BATCH // WORLD, (rank + 1) * BATCH // WORLD))
    return model.module.state_dict()


def sharded(tying: str, rank: int) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, mesh = make(plain(tying)), init_device_mesh("cpu", (WORLD,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(type(p).__name__ == "DTensor" for p in model.parameters())
    train(model, slice(rank * BATCH // WORLD, (rank + 1) * BATCH // WORLD))
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def worker(rank: int, meeting: str, results: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD)
    torch.set_num_threads(1)
    found = {f"{kind.__name__} {tying}": kind(tying, rank) for kind in (wrapped, sharded) for tying in TYINGS}
    if rank == 0:
        torch.save(found, results)
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """What two processes found, for every kind and tying: they start once, for that takes seconds."""
    folder = tmp_path_factory.mktemp("distributed")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    code = "import sys, test_distributed; test_distributed.worker(int(sys.argv[1]), *sys.argv[2:])"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(folder / "meeting"), str(folder / "results")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        said = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD, "\n".join(said)
    return torch.load(folder / "results", weights_only=True)


@pytest.mark.parametrize("tying", TYINGS)
@pytest.mark.parametrize("kind", ["wrapped", "sharded"])
def test_half_a_batch_each_trains_as_one(
    together: dict[str, dict[str, Tensor]], kind: str, tying: str
) -> None:
    wanted, found = alone(tying), together[f"{kind} {tying}"]
    start = make(plain(tying)).state_dict()
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert not torch.equal(value, start[name]), f"{name} did not learn"
        assert_close(found[name], value, rtol=1e-4, atol=1e-5)
