"""What was computed from parameters, for as long as they stay what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter, is_
from typing import Any, Generic, TypeVar, final

from torch import Tensor
from torch.nn import Parameter
from torch.optim.optimizer import register_optimizer_step_post_hook

T = TypeVar("T")
State = tuple[list[int], list[int], int]


@final
@dataclass(frozen=True, eq=False)
class _Kept(Generic[T]):
    """A ``value`` that was computed from ``tensors``.

    They are held on to, and so is their memory: others may get the address and the version of what is lost.
    """

    value: T
    tensors: tuple[Tensor, ...]
    memory: tuple[Tensor, ...]
    state: State

    @classmethod
    def of(cls, value: T, tensors: Sequence[Tensor], holding: bool) -> _Kept[T]:
        memory = tuple(tensor.detach() for tensor in tensors)
        return cls(value, tuple(tensors) if holding else (), memory, state_of(tensors))

    def holds(self, tensors: Sequence[Tensor], holding: bool) -> bool:
        """Whether the value is that of ``tensors``, as they are now."""
        same = len(self.tensors) == len(tensors) and all(map(is_, self.tensors, tensors))
        return (same or not holding) and self.state == state_of(tensors)


@final
class Passing(Generic[T]):
    """A ``value`` that copies and files do without."""

    def __init__(self, value: T | None = None) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type[Passing[T]], tuple[()]]:
        return Passing, ()


@final
class Recent(Generic[T]):
    """What was computed from parameters, for images of the last few sizes. Copies begin anew."""

    MOST = 8

    def __init__(self, holding: bool = True) -> None:
        """Not ``holding`` on to tensors: who keeps this for as long as they are there says which they are."""
        self._holding = holding
        self._kept: dict[tuple[object, ...], _Kept[T]] = {}

    def get(
        self, compute: Callable[[list[T]], T], tensors: Sequence[Tensor], key: tuple[object, ...]
    ) -> T | None:
        """What ``compute`` gave or gives for ``tensors`` and images such as ``key`` tells.

        It is given what holds of ``tensors`` for other images. None where what it gives cannot last.
        """
        kept = self._kept.get(key)
        if kept is not None and kept.holds(tensors, self._holding):
            return kept.value
        if not all(map(lasting, tensors)):
            return None
        others = [(k, v) for k, v in self._kept.items() if k != key and v.holds(tensors, self._holding)]
        kept = _Kept.of(compute([other.value for _, other in others]), tensors, self._holding)
        # Other threads may look something up meanwhile.
        self._kept = dict([*others, (key, kept)][-self.MOST :])
        return kept.value

    def values(self) -> list[T]:
        """What is kept."""
        return [kept.value for kept in self._kept.values()]

    def __reduce__(self) -> tuple[type[Recent[T]], tuple[bool]]:
        return Recent, (self._holding,)


def lasting(tensor: Tensor) -> bool:
    """Whether it is the same one at the next call, and torch counts its changes: a parameter, or labels.

    Those that other processes can write to it does not count.
    """
    if tensor.is_inference() or tensor.is_shared():
        return False
    return isinstance(tensor, Parameter) or not tensor.is_floating_point()


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
