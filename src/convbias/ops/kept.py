"""What was computed from parameters, for as long as they stay what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter, is_
from typing import Any, Generic, TypeVar, final

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

T = TypeVar("T")
State = tuple[list[int], list[int], int]


@final
@dataclass(frozen=True, eq=False)
class Kept(Generic[T]):
    """A ``value`` that was computed from ``tensors`` for images such as ``key`` tells.

    They are held on to, and so is their memory: others may get the address and the version of what is lost.
    """

    value: T
    tensors: tuple[Tensor, ...]
    memory: tuple[Tensor, ...]
    state: State
    key: tuple[object, ...]

    @classmethod
    def of(cls, value: T, tensors: Sequence[Tensor], key: tuple[object, ...]) -> Kept[T]:
        memory = tuple(tensor.detach() for tensor in tensors)
        return cls(value, tuple(tensors), memory, state_of(tensors), key)

    def holds(self, tensors: Sequence[Tensor], key: tuple[object, ...]) -> bool:
        """Whether the value is that of ``tensors``, as they are now, for images such as ``key`` tells."""
        return (
            self.key == key
            and len(self.tensors) == len(tensors)
            and all(map(is_, self.tensors, tensors))
            and self.state == state_of(tensors)
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


def state_of(tensors: Sequence[Tensor]) -> State:
    """What changes when torch knows that the numbers did: asked of many before every call, without Python."""
    return list(map(_address_of, tensors)), list(map(_version_of, tensors)), _Steps.taken


_address_of: Callable[[Tensor], int] = Tensor.data_ptr
_version_of: Callable[[Tensor], int] = attrgetter("_version")


class _Steps:
    """How many steps optimizers have taken, of which torch does not count what fused ones write."""

    taken = 0


def forget(*_: Any) -> None:
    """Let nothing hold that was kept until now."""
    _Steps.taken += 1


register_optimizer_step_post_hook(forget)
