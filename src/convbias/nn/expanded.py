"""A bias field written out once, for as long as its parameters stay what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class Expanded:
    """The ``field`` of ``parameters`` for images of ``size``.

    The parameters are held on to, for another tensor may get the memory and the version of a lost one.
    """

    field: Tensor
    parameters: tuple[Tensor, ...]
    states: tuple[tuple[int, int], ...]
    size: tuple[int, ...]

    @classmethod
    def of(cls, field: Tensor, parameters: Sequence[Tensor], size: Sequence[int]) -> Expanded:
        return cls(field, tuple(parameters), tuple(map(_state, parameters)), tuple(size))

    def holds(self, parameters: Sequence[Tensor], size: Sequence[int]) -> bool:
        """Whether the field is that of ``parameters``, as they are now, for images of ``size``."""
        return (
            self.size == tuple(size)
            and len(self.parameters) == len(parameters)
            and all(mine is given for mine, given in zip(self.parameters, parameters, strict=True))
            and self.states == tuple(map(_state, parameters))
        )


def _state(parameter: Tensor) -> tuple[int, int]:
    """What changes when torch knows that the numbers did."""
    return parameter.data_ptr(), parameter._version
