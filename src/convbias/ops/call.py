"""One call of the convolution op: its arguments as a value, and its bias field."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..geometry import Geometry, Site
from ..tying import Labelled, Tying, parse
from ..tying.labels import gather

BY_LABEL = "labels"

_parsed = functools.cache(parse)


@dataclass(frozen=True, eq=False)
class Call:
    """``y = act(conv(input, weight) + B)``, where ``tying`` and ``bias`` make ``B``.

    A tying by label (regions, symmetries) is spelled "labels" here, and ``bias`` is ``[θ, labels]``: an
    operator's arguments can be tensors and strings only.
    """

    input: Tensor
    weight: Tensor
    bias: Sequence[Tensor]
    tying: str
    geometry: Geometry
    groups: int
    activation: str

    @property
    def tied(self) -> Tensor | None:
        """The bias that torch's own convolution can add: ``(C,)``, or None."""
        return self.bias[0] if self.tying == "tied" else None

    def field(self) -> Tensor | None:
        """What remains to be added: the bias field in compact form, or None."""
        if self.tying in ("none", "tied"):
            return None
        weight, transposed = self.weight, self.geometry.transposed
        channels = weight.shape[1] * self.groups if transposed else weight.shape[0]
        size = self.input.shape[-self.geometry.dims :]
        return field_of(self.bias, self.tying, Site.of(channels, self.geometry, size))


def field_of(bias: Sequence[Tensor], tying: str, site: Site) -> Tensor:
    """The bias field in compact form, from an op's arguments."""
    return gather(*bias) if tying == BY_LABEL else _parsed(tying).field(bias, site)


def as_arguments(tying: Tying, parameters: Sequence[Tensor], site: Site) -> tuple[list[Tensor], str]:
    """``parameters`` and ``tying`` as the op takes them."""
    if isinstance(tying, Labelled):
        return [*parameters, tying.labels_at(site).to(parameters[0].device)], BY_LABEL
    return list(parameters), repr(tying)
