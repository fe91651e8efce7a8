"""convbias's own convolutions, as the library takes them."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from ..geometry import Geometry
from ..tying.base import Summand
from . import native
from .layout import last_order, last_strides, lies_last
from .native import laid_first, laid_last

# As convbias.h numbers them.
WAYS = ("winograd", "direct", "depthwise", "pointwise", "gathered")
# How many rows a kernel may have.
MOST_ROWS = 16

_CODES = {name: code for code, name in enumerate(WAYS)}
_pair = ctypes.c_int64 * 2


@final
class Slices(ctypes.Structure):
    """The first axis of volumes: how many images are in one and in the output, and each output is made of."""

    size: int
    out: int
    kernel: int
    before: int
    _fields_ = tuple((name, ctypes.c_int64) for name in ("size", "out", "kernel", "before"))


@final
class Shape(ctypes.Structure):
    """A convolution's sizes: of its input, (N, C, *in), and of all that follows from it.

    To the library all are of images: volumes of several slices, and lines of a single row.
    """

    samples: int
    channels: int
    filters: int
    slices: Slices
    _fields_ = (
        ("samples", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("filters", ctypes.c_int64),
        *((name, _pair) for name in ("size", "out", "kernel", "stride", "dilation", "before")),
        ("slices", Slices),
    )

    @classmethod
    def of(cls, input: Sequence[int], filters: int, geometry: Geometry) -> Shape | None:
        """For an input of this shape, padded already where it is not padded by zeros.

        None where some of a volume's slices are left out.
        """
        samples, channels, *size = input
        kernel, stride, dilation = geometry.kernel_size, geometry.stride, geometry.dilation
        out, before = geometry.output_size(size), [first for first, _ in geometry.pads]
        if geometry.padding_mode != "zeros":
            size = [n + sum(pads) for n, pads in zip(size, geometry.pads, strict=True)]
            before = [0] * geometry.dims
        if math.prod(kernel) == math.prod(stride) == 1 and out == tuple(size):
            # To a single tap they are one long row.
            size = out = (math.prod(size),)
            kernel, stride, dilation, before = (1,), (1,), (1,), [0]
        missing = 3 - len(size)
        ones, zeros = (1,) * missing, (0,) * missing
        size, out, kernel, stride, dilation = ((*ones, *n) for n in (size, out, kernel, stride, dilation))
        first, *before = (*zeros, *before)
        if stride[0] > 1 or (dilation[0] > 1 and kernel[0] > 1):
            return None
        pairs = (*(n[1:] for n in (size, out, kernel, stride, dilation)), before)
        slices = Slices(size[0], out[0], kernel[0], first)
        return cls(samples, channels, filters, *(_pair(*pair) for pair in pairs), slices)

    def turned(self) -> Shape:
        """Of the convolution that makes the gradient of this one's input (stride 1) from its output's."""
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        before = _pair(*(r - b for r, b in zip(reach, self.before, strict=True)))
        sizes = (self.out, self.size, self.kernel, self.stride, self.dilation, before)
        of = self.slices
        slices = Slices(of.out, of.size, of.kernel, of.kernel - 1 - of.before)
        return Shape(self.samples, self.filters, self.channels, *sizes, slices)

    @property
    def outputs(self) -> int:
        """Of all samples."""
        return self.samples * self.slices.out * math.prod(self.out)

    @property
    def is_of_images(self) -> bool:
        """Whether there is but one slice."""
        return self.slices.out == self.slices.kernel == 1

    @property
    def tiles(self) -> int:
        """Of 4×4 outputs, or 4 in a row."""
        rows = self.out[0] if self.kernel[0] == 1 else -(-self.out[0] // 4)
        return self.samples * self.slices.out * rows * -(-self.out[1] // 4)


@final
class _Weights(ctypes.Structure):
    filter: int
    channel: int
    rotated: int
    _fields_ = (
        ("values", ctypes.c_void_p),
        ("filter", ctypes.c_int64),
        ("channel", ctypes.c_int64),
        ("slice", ctypes.c_int64),
        ("tap", _pair),
        ("rotated", ctypes.c_int),
    )


@final
class Step(ctypes.Structure):
    """One of several convolutions, by the numbers of the arrays that it reads and writes."""

    _fields_ = (
        ("way", ctypes.c_int),
        ("activation", ctypes.c_int),
        ("shape", ctypes.c_void_p),
        ("packed", ctypes.c_void_p),
        ("field", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("input", "residual", "y")),
    )


def pack(way: str, shape: Shape, weight: Tensor) -> Tensor:
    """``weight`` (K, C/groups, *kernel) as ``way`` wants it."""
    packed, given = weight.new_empty(packed_size(way, shape)), _lying(weight)
    native.loaded().convbias_pack(
        _CODES[way], ctypes.byref(shape), ctypes.byref(given), packed.data_ptr(), torch.get_num_threads()
    )
    return packed


def packed_size(way: str, shape: Shape) -> int:
    """How many numbers that are."""
    return native.loaded().convbias_packed_size(_CODES[way], ctypes.byref(shape))


def _lying(weight: Tensor) -> _Weights:
    filter, channel, *taps = weight.stride()
    slice, *pair = (*(0,) * (3 - len(taps)), *taps)
    return _Weights(weight.data_ptr(), filter, channel, slice, _pair(*pair), False)


def _turned(weight: Tensor, depthwise: bool) -> _Weights:
    """The weight of the convolution that makes the gradient of the input from the output's."""
    turned = _lying(weight)
    if not depthwise:
        turned.filter, turned.channel = turned.channel, turned.filter
    turned.rotated = True
    return turned


@final
class Convolution:
    """``input ↦ act(input ∗ packed + field + residual)``, (N, K, *out) in channels_last: all else is ready.

    ``packed`` is None where it is another one at each call. ``residual`` is of the output's shape, if there
    is one. ``out``, in channels_last too, is written over where it is given. Where it is ``live``, the field
    is read where the summands lie, at every call.
    """

    def __init__(
        self,
        way: str,
        shape: Shape,
        packed: Tensor | None,
        out: tuple[int, ...],
        summands: Sequence[Summand] = (),
        activation: str = "",
    ) -> None:
        self.size = (shape.samples, shape.filters, *out)
        self.way, self.shape = way, shape
        # Filters side by side, as the sums are: what lies otherwise is copied.
        laid = [Summand(_laid(summand.values), summand.index) for summand in summands]
        held, field = native.field(self.size[1:], last_order(len(out)), laid)
        self.live = native.are_live(held, summands)
        # What the library is given the addresses of.
        self._held = (shape, packed, held, field)
        self._first = (_CODES[way], native.CODES[activation], ctypes.addressof(shape))
        self._packed = None if packed is None else packed.data_ptr()
        self._field = ctypes.addressof(field)
        self._run = native.loaded().convbias_convolve
        self._lie = last_strides(self.size)

    def __call__(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        out: Tensor | None = None,
        packed: Tensor | None = None,
    ) -> Tensor:
        input = laid_last(input)
        added = None
        if residual is not None:
            residual = laid_last(residual)
            added = residual.data_ptr()
        y = self.new() if out is None else out
        weight = self._packed if packed is None else packed.data_ptr()
        numbers = (input.data_ptr(), weight, added, y.data_ptr())
        if not self._run(*self._first, *numbers, self._field, torch.get_num_threads()):
            raise MemoryError("no memory for a convolution's intermediate numbers")
        return y

    def new(self) -> Tensor:
        """Memory for an output, whatever torch's defaults are."""
        return torch.empty_strided(self.size, self._lie, dtype=torch.float32, device="cpu")

    def step(self, input: int, residual: int | None, y: int) -> Step:
        """The same for a :class:`Chain`, whose arrays have these numbers."""
        rest = (self._packed, self._field, input, -1 if residual is None else residual, y)
        return Step(*self._first, *rest)


def _laid(values: Tensor) -> Tensor:
    """A term's values with their filters side by side."""
    if len(values) == 1 or values.stride(0) == 1:
        return values
    return values.detach().movedim(0, -1).contiguous().movedim(-1, 0)


@final
class _Gradients(ctypes.Structure):
    _fields_ = (
        ("activation", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("x", "saved", "gy")),
        ("weights", _Weights),
        *((name, ctypes.c_void_p) for name in ("gz", "gx", "gw", "sums")),
    )


class Made(NamedTuple):
    """What :class:`Gradients` make: those that were asked for, and ``gz``, which others are made from."""

    input: Tensor | None
    weight: Tensor | None
    field: Tensor | None
    gz: Tensor | None


@final
class Gradients:
    """The gradients of convolutions of one ``shape``, and of what follows them: all but the tensors is ready.

    Where own kernels make all that are asked for, they do so in one pass, without ``gz``, if that pays. They
    leave the gradient of the input to others where those of the weights are wanted ``alone``.
    """

    def __init__(self, way: str, shape: Shape, alone: bool = False) -> None:
        self._way, self._shape, self._turned = way, shape, shape.turned()
        stride, dilation = tuple(shape.stride), tuple(shape.dilation)
        self._has_input = stride == (1, 1) and not alone
        self._has_weight = way != "depthwise" or (
            shape.kernel[1] in (3, 5, 7, 9) and stride[1] <= 2 and dilation[1] == 1
        )
        # Rows at the ends of bands are made twice.
        least = 4 * max(7, 2 * dilation[0] * (shape.kernel[0] - 1))
        banded = way == "depthwise" and self._has_input and shape.out[0] >= least
        self._has_pass = way == "pointwise" or banded
        self._run = native.loaded().convbias_gradients
        # How what is made lies, known at the first call.
        self._lie = self._weights_lie = tuple[int, ...]()

    def __call__(
        self,
        input: Tensor,
        weight: Tensor,
        saved: Tensor | None,
        gy: Tensor,
        activation: str,
        wanted: Sequence[bool],
    ) -> Made:
        """From input and weight, what was ``saved`` of the activation, and the gradient of the output.

        ``wanted`` are those of input, weight and field, which is (K, *out).
        """
        given, input, gy = input, laid_last(input), laid_last(gy)
        saved = None if saved is None else laid_last(saved)
        gx = torch.empty_like(input) if wanted[0] and self._has_input else None
        gw = self._new(weight) if wanted[1] and self._has_weight else None
        gz = None
        if not self._has_pass or (wanted[1] and gw is None):
            gz = torch.empty_like(gy) if activation else gy
        # Of a single image it is the field's as well, where nobody else has it.
        is_field = gz is not None and gz is not gy and len(gy) == 1
        self._lie = self._lie or last_strides(gy.shape)[1:]
        sums = gy.new_empty_strided(gy.shape[1:], self._lie) if wanted[2] and not is_field else None
        read, made = (input, saved, gy), (gz, gx, gw, sums)
        turned = _turned(weight, depthwise=self._way == "depthwise")
        asked = _Gradients(native.CODES[activation], *map(_address, read), turned, *map(_address, made))
        shapes = (ctypes.byref(self._shape), ctypes.byref(self._turned))
        if not self._run(_CODES[self._way], ctypes.byref(asked), *shapes, torch.get_num_threads()):
            raise MemoryError("no memory for a gradient's intermediate numbers")
        if gx is not None and given is not input:
            gx = laid_first(gx)
        if gw is not None and self._way != "depthwise" and not lies_last(weight):
            gw = laid_first(gw)
        return Made(gx, gw, gz[0] if gz is not None and is_field and wanted[2] else sums, gz)

    def _new(self, weight: Tensor) -> Tensor:
        """Memory for the gradient of ``weight``."""
        if self._way == "depthwise":
            return weight.new_empty(weight.shape)
        self._weights_lie = self._weights_lie or last_strides(weight.shape)
        return weight.new_empty_strided(weight.shape, self._weights_lie)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
