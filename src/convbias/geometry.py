"""Where every window of a convolution falls: output sizes, and which taps are valid where.

Output ``o`` of a convolution reads, through tap ``t``, the input at ``o·s − p + t·d``; output ``o`` of a
transposed convolution reads the input ``i`` for which ``o = i·s − p + t·d``. A tap is *valid* at an
output where that input exists. Axes are independent of one another, so everything here is per axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from operator import index
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import ShapeError

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

_Numbers = tuple[int | tuple[int, ...], ...]

_CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def per_axis(name: str, value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """``value`` once per axis, as torch.nn reads its arguments.

    >>> per_axis("stride", 2, 3)
    (2, 2, 2)

    Raises ShapeError for a number of them that does not fit, TypeError for what is no integer.
    """
    rule = f"needs one integer, or one for each of {dims} axes"
    try:
        values = tuple(map(_integer, value)) if isinstance(value, Iterable) else (_integer(value),) * dims
    except TypeError:
        raise TypeError(f"{name}={value!r}: {rule}") from None
    if len(values) != dims:
        raise ShapeError(name, values, rule)
    return values


def _integer(value: int) -> int:
    """numpy's integers as Python's own; sizes under compilation are symbols, and stay so."""
    return value if isinstance(value, torch.SymInt) else index(value)


def _brief(values: tuple[int, ...]) -> int | tuple[int, ...]:
    """One number for as many that are alike, which torch reads in less time than a tuple."""
    return values[0] if values.count(values[0]) == len(values) else values


def pads_of(
    padding: str | int | Sequence[int], kernel_size: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """``padding`` as (before, after) per axis; of an uneven ``"same"`` the larger half goes after.

    >>> pads_of("same", (4,), (1,))
    ((1, 2),)
    """
    if padding == "valid":
        return ((0, 0),) * len(kernel_size)
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(padding, str):
        raise ShapeError("padding", repr(padding), 'Invalid padding string; give integers, "same" or "valid"')
    return tuple((p, p) for p in per_axis("padding", padding, len(kernel_size)))


@dataclass(frozen=True)
class Geometry:
    """How the windows of a convolution lie: everything but its weights and channels.

    ``pads`` holds (before, after) per axis. Make one with :meth:`of`, which takes what torch.nn takes.

    >>> g = Geometry.of(2, kernel_size=3, stride=2, padding=1)
    >>> g.output_size((8, 9))
    (4, 5)
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    padding_mode: str = "zeros"
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        dims: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        *,
        padding_mode: str = "zeros",
        transposed: bool = False,
        output_padding: int | Sequence[int] = 0,
    ) -> Geometry:
        """The geometry that torch.nn's arguments describe, in ``dims`` spatial axes.

        Raises ShapeError for what no convolution can have.
        """
        kernel = per_axis("kernel_size", kernel_size, dims)
        step = per_axis("stride", stride, dims)
        spread = per_axis("dilation", dilation, dims)
        for name, values in (("kernel_size", kernel), ("stride", step), ("dilation", spread)):
            if min(values) < 1:
                rule = f"must be at least 1 on every axis; non-positive {name} is not supported"
                raise ShapeError(name, values, rule)
        if padding_mode not in PADDING_MODES:
            rule = f"padding_mode must be one of {', '.join(PADDING_MODES)}"
            raise ShapeError("padding_mode", repr(padding_mode), rule)
        if padding == "same" and (transposed or max(step) > 1):
            raise ShapeError(
                "padding", "'same'", "padding='same' is not supported for strided convolutions, "
                "nor for transposed ones; give integers"
            )  # fmt: skip
        if transposed and padding_mode != "zeros":
            raise ShapeError(
                "padding_mode",
                repr(padding_mode),
                'Only "zeros" padding mode is supported for transposed convolutions',
            )
        pads = pads_of(padding, kernel, spread)
        if min(min(p) for p in pads) < 0:
            raise ShapeError("padding", padding, "must not be negative; crop the input instead")
        extra = per_axis("output_padding", output_padding, dims)
        return cls(kernel, step, pads, spread, padding_mode, transposed, extra)

    @property
    def dims(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel_size)

    @property
    def covers(self) -> bool:
        """Whether every tap is valid at every output, whatever the input's size."""
        return not self.transposed and (self.padding_mode != "zeros" or not any(a or b for a, b in self.pads))

    def output_size(self, input_size: Sequence[int]) -> tuple[int, ...]:
        """The output's spatial size for an input of spatial size ``input_size``."""
        if len(input_size) != self.dims:
            raise ShapeError("input_size", tuple(input_size), f"needs {self.dims} axes")
        size: list[int] = []
        for axis, n in enumerate(input_size):
            span, (before, after) = self._span(axis), self.pads[axis]
            if self.transposed:
                n_out = (n - 1) * self.stride[axis] - before - after + span
                size.append(n_out + self.output_padding[axis])
            else:
                size.append((n + before + after - span) // self.stride[axis] + 1)
        return tuple(size)

    def input_sizes(self, output_size: Sequence[int]) -> tuple[range, ...]:
        """Per axis, the input sizes that give ``output_size``: up to ``stride`` of them.

        A transposed convolution has one or none, given its ``output_padding``.

        >>> Geometry.of(1, kernel_size=3, stride=2, padding=1).input_sizes((4,))
        (range(7, 9),)
        """
        if len(output_size) != self.dims:
            raise ShapeError("output_size", tuple(output_size), f"needs {self.dims} axes")
        sizes: list[range] = []
        for axis, n in enumerate(output_size):
            span, stride, (before, after) = self._span(axis), self.stride[axis], self.pads[axis]
            if self.transposed:
                steps, rest = divmod(n - self.output_padding[axis] - span + before + after, stride)
                sizes.append(range(0) if rest or steps < 0 else range(steps + 1, steps + 2))
            else:
                least = (n - 1) * stride + span - before - after
                sizes.append(range(max(least, 1), least + stride))
        return tuple(sizes)

    def with_output_size(
        self, input_size: Sequence[int], output_size: Sequence[int]
    ) -> Geometry:  # fmt: skip
        """This transposed geometry with the ``output_padding`` that gives ``output_size``."""
        wanted = per_axis("output_size", output_size, self.dims)
        # What torch takes as output_padding may be as much as the stride or more.
        if self.output_size(input_size) == wanted:
            return self
        least = replace(self, output_padding=(0,) * self.dims).output_size(input_size)
        most = tuple(n + s - 1 for n, s in zip(least, self.stride, strict=True))
        if any(not a <= n <= b for a, n, b in zip(least, wanted, most, strict=True)):
            raise ShapeError(
                "output_size",
                wanted,
                f"requested an output size of {list(wanted)}, but valid sizes range from "
                f"{list(least)} to {list(most)} (for an input of {tuple(input_size)})",
            )
        extra = tuple(n - a for n, a in zip(wanted, least, strict=True))
        return replace(self, output_padding=extra)

    def valid_taps(self, input_size: Sequence[int]) -> tuple[Tensor, ...]:
        """Per axis a bool mask ``(out, k)``: is tap ``t`` valid at output ``o``?

        An entry of a reflected, replicated or circular padding is an entry of the image, so under
        those modes every tap is valid everywhere.

        >>> Geometry.of(1, kernel_size=3, padding=1).valid_taps((4,))[0].int().tolist()
        [[0, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0]]
        """
        masks: list[Tensor] = []
        for axis, n_out in enumerate(self.output_size(input_size)):
            n, stride = input_size[axis], self.stride[axis]
            o = torch.arange(n_out, device="cpu")[:, None]
            t = torch.arange(self.kernel_size[axis], device="cpu") * self.dilation[axis]
            if self.transposed:
                reached = o + self.pads[axis][0] - t
                masks.append((reached % stride == 0) & (reached >= 0) & (reached < n * stride))
            elif self.padding_mode == "zeros":
                reached = o * stride - self.pads[axis][0] + t
                masks.append((reached >= 0) & (reached < n))
            else:
                masks.append(torch.ones_like(o * t, dtype=torch.bool))
        return tuple(masks)

    def kinds(self, input_size: Sequence[int]) -> tuple[tuple[Tensor, Tensor], ...]:
        """Per axis the kinds of windows, a bool mask ``(kinds, k)``, and the kind of each output ``(out,)``.

        Windows are of one kind where the same taps are valid.

        >>> Geometry.of(1, kernel_size=3, padding=1).kinds((4,))[0][1].tolist()
        [0, 2, 2, 1]
        """
        return _kinds(self, tuple(input_size))

    def convolve(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
        """torch's own convolution of ``input`` by ``weight`` with this geometry, ``bias`` tied."""
        run, before, after, pads = self._torch
        return run(self.padded(input)[0] if pads else input, weight, bias, *before, groups, *after)

    def as_torch(self, groups: int) -> tuple[Callable[..., Tensor], tuple[Any, ...]] | None:
        """torch's convolution, and what it takes after the bias; None where more is to be padded."""
        run, before, after, pads = self._torch
        return None if pads else (run, (*before, groups, *after))

    def padded(self, input: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """``input`` with the padding that torch's convolution cannot do by itself, and what is left to it."""
        padding, around, mode = self._padding
        return F.pad(input, around, mode) if around else input, padding

    @cached_property
    def _torch(self) -> tuple[Callable[..., Tensor], _Numbers, _Numbers, bool]:
        """torch's own convolution, its numbers before and after the groups, whether it is padded before."""
        stride, padding, dilation = map(_brief, (self.stride, self._padding[0], self.dilation))
        pads = bool(self._padding[1])
        if self.transposed:
            before = (stride, padding, _brief(self.output_padding))
            return _TRANSPOSED[self.dims - 1], before, (dilation,), pads
        return _CONVOLVE[self.dims - 1], (stride, padding, dilation), (), pads

    @cached_property
    def _padding(self) -> tuple[tuple[int, ...], tuple[int, ...], str]:
        """What torch's convolution pads by itself, what is padded before it (last axis first), and how."""
        if self.padding_mode != "zeros":
            mode, padding = self.padding_mode, (0,) * self.dims
        else:
            mode, padding = "constant", tuple(min(pair) for pair in self.pads)
        inside = zip(reversed(self.pads), reversed(padding), strict=True)
        around = tuple(p - done for pair, done in inside for p in pair)
        return padding, around if any(around) else (), mode

    def _span(self, axis: int) -> int:
        return self.dilation[axis] * (self.kernel_size[axis] - 1) + 1


@lru_cache(maxsize=256)
def _kinds(geometry: Geometry, input_size: tuple[int, ...]) -> tuple[tuple[Tensor, Tensor], ...]:
    kinds: list[tuple[Tensor, Tensor]] = []
    for mask in geometry.valid_taps(input_size):
        unique = cast("Callable[..., tuple[Tensor, Tensor]]", torch.unique)  # pyright: ignore
        kind, of_output = unique(mask, return_inverse=True, dim=0)
        kinds.append((kind, of_output.int()))
    return tuple(kinds)


@dataclass(frozen=True)
class Site:
    """Where a bias lives: the filters and windows it belongs to and, once known, their size.

    ``channels`` is C_out. ``geometry`` is None for a bias without a convolution. ``output_size`` and
    ``input_size`` are None as long as no image has been seen.
    """

    channels: int
    dims: int
    geometry: Geometry | None = None
    output_size: tuple[int, ...] | None = None
    input_size: tuple[int, ...] | None = None

    @classmethod
    def of(cls, channels: int, geometry: Geometry, input_size: Sequence[int]) -> Site:
        """The site of a convolution over an input of spatial size ``input_size``."""
        size = tuple(input_size)
        return cls(channels, geometry.dims, geometry, geometry.output_size(size), size)

    @property
    def field_shape(self) -> tuple[int, ...]:
        """``(C_out, *out)``, the shape of the bias field."""
        return (self.channels, *self.sized())

    def sized(self) -> tuple[int, ...]:
        """``output_size``, or a ShapeError where it is not known yet."""
        if self.output_size is None:
            raise ShapeError("output_size", None, "this needs the output's size; give output_size=")
        return self.output_size
