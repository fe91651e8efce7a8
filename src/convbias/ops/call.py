"""One call of the convolution op: its arguments as a value, and its bias field."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..geometry import Geometry, Site
from ..tying import Labelled, Tying, parse
from ..tying.base import Summand
from ..tying.labels import gather
from .checks import channels_of
from .choice import is_small

if TYPE_CHECKING:
    from .own import Convolution

BY_LABEL = "labels"

_parsed = functools.cache(parse)


class Packed(NamedTuple):
    """A weight as one ``way`` of convolving wants it, for inputs of one shape.

    Where there is a ``run`` it does the whole of the call, for an input and what is added before the
    activation, if anything is. Where that is ``live``, it reads the bias where it lies, at every call. Where
    there is a ``whole``, it is the own convolution that does all of it, of images in channels_last.
    """

    way: str
    weight: Tensor
    run: Callable[[Call, Tensor, Tensor | None], Tensor] | None = None
    live: bool = True
    whole: Convolution | None = None


class Call(NamedTuple):
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
    # The weight as the kernel wants it, where a layer keeps it so.
    packed: Packed | None = None

    @property
    def is_small(self) -> bool:
        """Whether its image, and what its filters make of it, are too few numbers for own kernels."""
        return small(self.input.shape, self.weight.shape, self.groups)

    @property
    def tied(self) -> Tensor | None:
        """The bias that torch's own convolution can add: ``(C,)``, or None."""
        return self.bias[0] if self.tying == "tied" else None

    @property
    def is_mistyped(self) -> bool:
        """Whether torch's own convolution refuses its tied bias, which is of another type than the input."""
        return self.tying == "tied" and self.bias[0].dtype is not self.input.dtype

    @property
    def fielded(self) -> bool:
        """Whether there is a field to add, beside what torch's own convolution adds."""
        return self.tying not in ("none", "tied")

    @property
    def bared(self) -> Call:
        """The same call with a tied bias as a field, for a convolution that adds none."""
        return self._replace(tying="c") if self.tying == "tied" else self

    @property
    def activating(self) -> Call:
        """The same call where convolution and field are done: its activation alone."""
        return self._replace(bias=(), tying="none")

    @property
    def site(self) -> Site:
        """Where the bias lives."""
        _, channels = channels_of(self.weight.shape, self.groups, self.geometry.transposed)
        return Site.of(channels, self.geometry, self.input.shape[-self.geometry.dims :])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.input, self.weight, *self.bias)

    def convolve(self, input: Tensor) -> Tensor:
        """The convolution alone of ``input``, with the bias that torch's own can add."""
        return self.geometry.convolve(input, self.weight, self.tied, self.groups)

    def field(self) -> Tensor | None:
        """What remains to be added: the bias field in compact form, or None."""
        if not self.fielded:
            return None
        # What a layer or a user wrote out already has nothing to be made of.
        return self.bias[0] if self.tying == "untied" else field_of(self.bias, self.tying, self.site)

    def summands(self) -> list[Summand]:
        """What remains to be added, as it is stored."""
        return summands_of(self.bias, self.tying, self.site) if self.fielded else []


def small(input: Sequence[int], weight: Sequence[int], groups: int) -> bool:
    """Whether such an image, and what the filters make of it, are too few numbers for own kernels.

    Of 3D images torch takes its time however few they are.
    """
    return len(weight) < 5 and is_small(math.prod(input), weight[1] * groups, weight[0])


def recorded(tensors: Sequence[Tensor]) -> bool:
    """Whether torch records a gradient of what is computed from ``tensors``."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                return True
    return False


def field_of(bias: Sequence[Tensor], tying: str, site: Site) -> Tensor:
    """The bias field in compact form, from an op's arguments."""
    return gather(*bias) if tying == BY_LABEL else _parsed(tying).field(bias, site)


def summands_of(bias: Sequence[Tensor], tying: str, site: Site) -> list[Summand]:
    """The same as it is stored."""
    return [Summand(gather(*bias))] if tying == BY_LABEL else _parsed(tying).summands(bias, site)


def as_arguments(tying: Tying, parameters: Sequence[Tensor], site: Site) -> tuple[list[Tensor], str]:
    """``parameters`` and ``tying`` as the op takes them."""
    if isinstance(tying, Labelled):
        return [*parameters, tying.labels_at(site).to(parameters[0].device)], BY_LABEL
    return list(parameters), repr(tying)
