"""What was computed from parameters, for as long as they stay what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, Generic, TypeVar, final

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

T = TypeVar("T")


@final
@dataclass(frozen=True, eq=False)
class Kept(Generic[T]):
    """A ``value`` that was computed from ``tensors`` for images such as ``key`` tells.

    They are held on to, and so is their memory: others may get the address and the version of what is lost.
    """

    value: T
    tensors: tuple[Tensor, ...]
    memory: tuple[Tensor, ...]
    states: tuple[tuple[int, int, int], ...]
    key: tuple[object, ...]

    @classmethod
    def of(cls, value: T, tensors: Sequence[Tensor], key: tuple[object, ...]) -> Kept[T]:
        memory = tuple(tensor.detach() for tensor in tensors)
        return cls(value, tuple(tensors), memory, tuple(map(state_of, tensors)), key)

    def holds(self, tensors: Sequence[Tensor], key: tuple[object, ...]) -> bool:
        """Whether the value is that of ``tensors``, as they are now, for images such as ``key`` tells."""
        return (
            self.key == key
            and len(self.tensors) == len(tensors)
            and all(map(is_, self.tensors, tensors))
            and self.states == tuple(map(state_of, tensors))
        )


def keep(
    kept: Kept[T] | None, compute: Callable[[], T], tensors: Sequence[Tensor], key: tuple[object, ...]
) -> Kept[T] | None:
    """``kept`` where it still holds, else what ``compute`` gives now; None where torch counts no changes."""
    if kept is not None and kept.holds(tensors, key):
        return kept
    if not all(map(counted, tensors)):
        return None
    return Kept.of(compute(), tensors, key)


def counted(tensor: Tensor) -> bool:
    """Whether torch counts the changes of ``tensor``: not where other processes can write to it."""
    return not tensor.is_inference() and not tensor.is_shared()


def state_of(tensor: Tensor) -> tuple[int, int, int]:
    """What changes when torch knows that the numbers did."""
    return tensor.data_ptr(), tensor._version, _Steps.taken


class _Steps:
    """How many steps optimizers have taken, of which torch does not count what fused ones write."""

    taken = 0


def forget(*_: Any) -> None:
    """Let nothing hold that was kept until now."""
    _Steps.taken += 1


register_optimizer_step_post_hook(forget)
