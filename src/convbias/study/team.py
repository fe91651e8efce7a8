"""Processes that train one network together, each on its share of every batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

T = TypeVar("T")
WHOLE: Final = StateDictOptions(full_state_dict=True)


@final
@dataclass(frozen=True)
class Team:
    """``size`` processes of torch.distributed's default group, of which this is number ``rank``.

    Alone by default. Where ``sharded``, parameters, gradients and the optimizer's state are spread over
    the processes (FSDP2); else each has all (DistributedDataParallel).
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process is the one that reads and writes files and speaks."""
        return self.rank == 0

    def wrapped(self, network: Module, example: Callable[[], Tensor]) -> Module:
        """``network`` as the team trains it, on inputs such as ``example()``; where sharded, a copy."""
        if self.size == 1:
            return network
        if self.sharded:
            sharded = copy.deepcopy(network)
            fully_shard(sharded)
            return sharded
        # Always looking for them takes time, and torch warns where there are none.
        return DistributedDataParallel(network, find_unused_parameters=_leaves_some_out(network, example()))

    def share(self, indices: Tensor) -> tuple[Tensor, int]:
        """This process's part of a batch, and how many of it count.

        One of them is handed out where there are too few for all, for all have to take part; it counts 0.
        """
        mine = indices.tensor_split(self.size)[self.rank]
        return (mine, len(mine)) if len(mine) else (indices[:1], 0)

    def weighted(self, loss: Tensor, terms: int) -> Tensor:
        """``loss``, a mean over ``terms``, so that the mean over the team is that over the whole batch."""
        if self.size == 1:
            return loss
        total = torch.tensor(float(terms), device=loss.device)
        dist.all_reduce(total)
        return loss * (terms * self.size / total) if terms else loss * 0

    def summed(self, value: Tensor) -> Tensor:
        """The sum of everyone's ``value``, so that all decide alike."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def gathered(self, parts: list[Tensor]) -> list[Tensor]:
        """The parts of all processes: the first of each, then the second of each, …"""
        if self.size == 1:
            return parts
        everyones: list[list[Tensor]] = [[] for _ in range(self.size)]
        dist.all_gather_object(everyones, parts)
        return [part for parts in zip(*everyones, strict=True) for part in parts]

    def told(self, find: Callable[[], T]) -> T:
        """What ``find`` finds in the leading process."""
        if self.size == 1:
            return find()
        message = [find() if self.leads else None]
        dist.broadcast_object_list(message)
        return message[0]  # pyright: ignore[reportReturnType]

    def state(self, network: Module) -> dict[str, Any]:
        """The whole state of a wrapped network, with the names of the plain one."""
        if not self.sharded:
            plain = network.module if isinstance(network, DistributedDataParallel) else network
            return dict(plain.state_dict())
        return dict(get_model_state_dict(network, options=WHOLE))

    def load(self, network: Module, state: dict[str, Any]) -> None:
        """The reverse of ``state``."""
        if not self.sharded:
            plain = network.module if isinstance(network, DistributedDataParallel) else network
            plain.load_state_dict(state)
        else:
            set_model_state_dict(network, state, options=WHOLE)

    def optimizer_state(self, network: Module, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state of the optimizer of a wrapped network."""
        if not self.sharded:
            return optimizer.state_dict()
        return dict(get_optimizer_state_dict(network, optimizer, options=WHOLE))

    def load_optimizer(self, network: Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """The reverse of ``optimizer_state``."""
        if not self.sharded:
            optimizer.load_state_dict(state)
        else:
            set_optimizer_state_dict(network, optimizer, state, options=WHOLE)


def _leaves_some_out(network: Module, inputs: Tensor) -> bool:
    """Whether the network has parameters that its output does not depend on."""
    twin = copy.deepcopy(network).eval()
    with torch.random.fork_rng():
        twin(inputs).abs().sum().backward()
    return any(p.requires_grad and p.grad is None for p in twin.parameters())


ALONE: Final = Team()
