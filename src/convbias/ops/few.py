"""A small call where no gradient is recorded: torch's own operators, seen by whoever follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import final

import torch
from torch import Tensor

from ..geometry import Geometry, Site
from .activations import ACTIVATIONS
from .call import field_of, small


@final
class Few:
    """``(input, weight, bias) ↦ act(conv(input, weight) + B)`` for images of one size: all else is ready.

    To ask who follows a call, and so whether its output may be written over, takes as long as a small
    convolution. Here each step has a result of its own, and nobody need be asked.

    Equivalent to: ``aten.composite``.
    """

    def __init__(self, geometry: Geometry, tying: str, groups: int, activation: str, site: Site) -> None:
        self._convolve, self._groups = geometry.convolve, groups
        self._tied = tying == "tied"
        self._field: Callable[[Sequence[Tensor]], Tensor] | None = None
        if tying == "untied":
            self._field = itemgetter(0)
        elif tying not in ("none", "tied"):
            self._field = partial(field_of, tying=tying, site=site)
        self._activate = ACTIVATIONS[activation] if activation else None

    def __call__(self, input: Tensor, weight: Tensor, bias: Sequence[Tensor]) -> Tensor:
        y = self._convolve(input, weight, bias[0] if self._tied else None, self._groups)
        if self._field is not None:
            field = self._field(bias)
            # Under autocast y is narrower than the parameters and has to stay so.
            y = y + (field if field.dtype is y.dtype else field.to(y.dtype))
        return y if self._activate is None else self._activate(y)


def few_of(
    input: torch.Size, weight: torch.Size, geometry: Geometry, tying: str, groups: int, activation: str
) -> Few | None:
    """What runs a call of such sizes, which must fit, or None where it is not small."""
    if not small(input, weight, groups):
        return None
    channels = weight[1] * groups if geometry.transposed else weight[0]
    site = Site.of(channels, geometry, input[-geometry.dims :])
    return Few(geometry, tying, groups, activation, site)
