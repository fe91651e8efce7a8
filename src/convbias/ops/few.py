"""A small call where no gradient is recorded: torch's own operators, seen by whoever follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from operator import itemgetter
from typing import final

import torch
from torch import Tensor

from ..geometry import Geometry, Site
from . import choice
from .activations import ACTIVATIONS, check_activation
from .aten import as_output
from .call import field_of, small
from .checks import channels_of, check_size, fits


@final
class Few:
    """``(input, weight, bias) ↦ act(conv(input, weight) + B)`` for inputs of one size: all else is ready.

    To ask who follows a call, and so whether its output may be written over, takes as long as a small
    convolution. Here each step has a result of its own, and nobody need be asked.

    Equivalent to: ``aten.composite``.
    """

    def __init__(self, geometry: Geometry, tying: str, groups: int, activation: str, site: Site) -> None:
        self.output_size = site.sized()
        # Where it can be, torch's own at once: a call in between takes as long as a tenth of it.
        self._run, self._rest = geometry.as_torch(groups) or (geometry.convolve, (groups,))
        self._tied = tying == "tied"
        self._field: Callable[[Sequence[Tensor]], Tensor] | None = None
        if tying == "untied":
            self._field = itemgetter(0)
        elif tying not in ("none", "tied"):
            self._field = partial(field_of, tying=tying, site=site)
        name = check_activation(activation or None)
        self._activate = ACTIVATIONS[name] if name else None

    def __call__(self, input: Tensor, weight: Tensor, bias: Sequence[Tensor]) -> Tensor:
        y = self._run(input, weight, bias[0] if self._tied else None, *self._rest)
        if self._field is not None:
            field = self._field(bias)
            y = y + (field if field.dtype is y.dtype else as_output(field, y))
        return y if self._activate is None else self._activate(y)


# Typed: to others a groups of True is not the same as 1.
@lru_cache(maxsize=1024, typed=True)
def few_of(
    input: torch.Size,
    weight: torch.Size,
    field: torch.Size | None,
    geometry: Geometry,
    tying: str,
    groups: int,
    activation: str,
) -> Few | None:
    """What runs a call of such sizes, or None where input or output is not small.

    None too where kernel or ``field`` do not fit, which others tell: by one that is larger a sum would grow.
    ``field`` is None where there is none, or one that was made to fit. Raises ShapeError for such an input.
    """
    check_size(input, weight, geometry, groups)
    if not small(input, weight, groups) or tuple(weight[2:]) != geometry.kernel_size:
        return None
    dims = geometry.dims
    _, channels = channels_of(weight, groups, geometry.transposed)
    site = Site.of(channels, geometry, input[-dims:])
    if math.prod(input[: -dims - 1]) * math.prod(site.field_shape) >= choice.SMALL:
        return None
    if field is not None and not fits(field, site.field_shape):
        return None
    return Few(geometry, tying, groups, activation, site)
