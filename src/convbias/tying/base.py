"""What every tying can do. A tying says which entries of the bias field share a parameter."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ShapeError, TyingError
from ..geometry import Site

Parameters = Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Summand:
    """Part of a bias field as it is stored, so that nothing need be written out to be added.

    The number of filter ``c`` at ``(o₁, …)`` is ``values[c, index[0][o₁], …]``, or ``values[c, o₁, …]`` where
    there is no ``index``; an axis of length 1 is shared.
    """

    values: Tensor
    index: tuple[Tensor, ...] = ()

    def field(self) -> Tensor:
        """This part in compact form: with ones where an axis is shared."""
        field = self.values
        for axis, index in enumerate(self.index, start=1):
            field = field.index_select(axis, index.to(field.device))
        return field


class Tying(ABC):
    """Which entries of the bias field ``B``, shape ``(C_out, *out)``, share a parameter.

    A frozen, hashable value without data; its parameters live in layers. ``repr`` is its canonical
    spelling, and ``parse(repr(t)) == t``.
    """

    @property
    def size_bound(self) -> bool:
        """Whether the parameters' shapes depend on the output's size."""
        return False

    @abstractmethod
    def shapes(self, site: Site) -> dict[str, tuple[int, ...]]:
        """The parameters by their names in a state dict, with their shapes, in order.

        Raises TyingError where this tying cannot be had at ``site``.
        """

    @abstractmethod
    def field(self, parameters: Parameters, site: Site) -> Tensor:
        """The bias field in a compact form: with ones where an axis is shared."""

    def summands(self, parameters: Parameters, site: Site) -> list[Summand]:
        """Parts that add up to the bias field, as they are stored."""
        return [Summand(self.field(parameters, site))]

    @abstractmethod
    def project(self, field: Tensor, site: Site) -> list[Tensor]:
        """The smallest parameters of the field nearest to ``field`` (least squares)."""

    def lift(self, tied: Tensor, site: Site) -> list[Tensor]:
        """Parameters whose field is the tied bias ``tied`` ``(C,)``, or the nearest to it.

        Unlike :meth:`project` it is exact to the bit where it is exact at all.
        """
        return self.project(over_places(tied, site).expand(site.field_shape), site)

    def resize(self, parameters: Parameters, site: Site, output_size: tuple[int, ...]) -> list[Tensor]:
        """The parameters at another output size, linearly interpolated, corners aligned."""
        return list(parameters)

    def expand(self, parameters: Parameters, site: Site) -> Tensor:
        """The bias field ``B``, shape ``(C_out, *out)``.

        Raises ShapeError for parameters of the wrong shapes.
        """
        check_shapes(self, [p.shape for p in parameters], site)
        return self.field(parameters, site).expand(site.field_shape)

    def count(self, site: Site) -> int:
        """How many parameters there are.

        >>> from convbias import parse
        >>> parse("c h").count(Site(8, 2, output_size=(5, 6)))
        40
        """
        return sum(math.prod(shape) for shape in self.shapes(site).values())


def check_shapes(tying: Tying, shapes: Sequence[Sequence[int]], site: Site) -> None:
    """Raise ShapeError unless ``shapes`` are those of the parameters that ``tying`` has at ``site``."""
    wanted = list(tying.shapes(site).values())
    found = [tuple(shape) for shape in shapes]
    if found != wanted:
        raise ShapeError("bias", found, f"the tying {tying!r} has parameters of shapes {wanted} here")


def over_places(tied: Tensor, site: Site) -> Tensor:
    """``(C,)`` as ``(C, 1, …)``."""
    return tied.reshape(-1, *(1,) * site.dims)


def wide(tensor: Tensor) -> Tensor:
    """``tensor`` in double precision, in which projections are computed."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float64))


def refines(finer: Tying, coarser: Tying, site: Site) -> bool:
    """Whether every field of ``coarser`` is one of ``finer`` at ``site``: the order ``coarser ≤ finer``.

    Decided on a random field of ``coarser``, which lies in the span of ``finer``, a subspace, only if all
    do (with probability one; low-rank fields likewise have their full rank).

    >>> from convbias import parse
    >>> refines(parse("untied"), parse("c h"), Site(8, 2, output_size=(5, 6)))
    True
    """
    generator = torch.Generator().manual_seed(0)
    drawn = [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in coarser.shapes(site).values()
    ]
    field = coarser.expand(drawn, site)
    nearest = finer.expand(finer.project(field, site), site)
    return bool((nearest - field).abs().max() <= 1e-9 * field.abs().max())


def convert(parameters: Parameters, source: Tying, target: Tying, site: Site) -> tuple[list[Tensor], float]:
    """``target``'s parameters for the field that ``source`` has, and the largest error of that field.

    A tied field is lifted where that is exact, so that no bit changes; any other is projected.
    """
    field = source.expand(parameters, site)

    def error(converted: list[Tensor]) -> float:
        difference = (wide(target.expand(converted, site)) - wide(field)).abs()
        return float(difference.max()) if difference.numel() else 0.0

    if repr(source) == "tied":
        lifted = target.lift(parameters[0], site)
        if error(lifted) <= 8 * torch.finfo(field.dtype).eps * float(field.abs().max()):
            return lifted, error(lifted)
    projected = target.project(field, site)
    return projected, error(projected)


def per_axis_product(tensor: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """``tensor`` ``(C, a, b, …)`` times one matrix ``(a', a)``, ``(b', b)``, … per spatial axis."""
    for axis, matrix in enumerate(matrices, start=1):
        tensor = (tensor.movedim(axis, -1) @ matrix.to(tensor).mT).movedim(-1, axis)
    return tensor


def interpolation(n_out: int, n_in: int, like: Tensor) -> Tensor:
    """The matrix ``(n_out, n_in)`` of linear interpolation with corners aligned.

    >>> interpolation(3, 2, torch.zeros(())).tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    precise = torch.promote_types(like.dtype, torch.float32)
    real = precise.to_real() if precise.is_complex else precise
    step = (n_in - 1) / max(n_out - 1, 1)
    position = torch.arange(n_out, device=like.device, dtype=real)[:, None] * step
    control = torch.arange(n_in, device=like.device, dtype=real)[None, :]
    return (1 - (position - control).abs()).clamp(min=0).to(like.dtype)


def interpolate(tensor: Tensor, output_size: tuple[int, ...]) -> Tensor:
    """``tensor`` ``(C, *size)`` at ``output_size``; an axis of length 1 is shared and stays."""
    exact = wide(tensor)
    matrices = [
        torch.ones(1, 1) if n_in == 1 else interpolation(n_out, n_in, exact)
        for n_in, n_out in zip(tensor.shape[1:], output_size, strict=True)
    ]
    return per_axis_product(exact, matrices).to(tensor.dtype)


def needs_dims(tying: Tying, site: Site, dims: Sequence[int], rule: str) -> None:
    """Raise TyingError unless ``site`` has one of ``dims`` spatial axes."""
    if site.dims not in dims:
        raise TyingError(repr(tying), repr(tying), f"{rule}; this bias has {site.dims}")
