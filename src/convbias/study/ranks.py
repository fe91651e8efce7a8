"""Where a study runs: on its own, or as one of torchrun's ranks."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar, final

import torch
import torch.distributed as dist

from .crew import Crew, Ranks
from .team import ALONE, Team

T = TypeVar("T")
# Ranks wait for others that still train, however long that takes; a number of milliseconds of 32 bits holds
# 24 days. torchrun ends all of them where one fails, so that nobody waits for what is gone.
PATIENCE: Final = timedelta(days=20)


@final
@dataclass(frozen=True)
class Place:
    """A device, the team that this process trains in, and the crew where torchrun spreads the networks."""

    device: torch.device
    team: Team = ALONE
    crew: Crew | None = None

    @property
    def leads(self) -> bool:
        """Whether this process is the one that speaks and writes."""
        return not dist.is_initialized() or dist.get_rank() == 0

    def told(self, find: Callable[[], T]) -> T:
        """What ``find`` finds in the leading process."""
        if not dist.is_initialized():
            return find()
        return Team(dist.get_rank(), dist.get_world_size()).told(find)

    def devices(self, number: int) -> tuple[torch.device, ...]:
        """For so many processes beside each other."""
        if self.device.type != "cuda" or self.device.index is not None:
            return (self.device,) * number
        return tuple(torch.device("cuda", i % torch.cuda.device_count()) for i in range(number))


@contextmanager
def here(device: str | None, *, together: bool, sharded: bool) -> Generator[Place]:
    """The place of this process; under torchrun, in a process group that ends with it.

    Raises ValueError for a device that is not there, and for a team without torchrun.
    """
    chosen = device_called(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 and together:
        raise ValueError(
            "ddp: there is one process; torchrun --nproc-per-node=N -m convbias study … starts several"
        )
    if size == 1:
        yield Place(chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        rank = dist.get_rank()
        if together:
            yield Place(chosen, Team(rank, size, sharded))
        else:
            yield Place(chosen, crew=Ranks())
    finally:
        dist.destroy_process_group()


def device_called(name: str | torch.device | None) -> torch.device:
    """The device; None is the GPU where there is one. Raises ValueError for one that is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name}: must be cpu, cuda or cuda:N") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name}: torch sees no GPU here; use cpu")
    return found
