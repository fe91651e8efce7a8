"""convbias's own kernels: a shared library of plain C functions (``native/``), called by raw pointers."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from ..tying.base import Summand
from . import kept
from .layout import Order, first_strides, form_of, last_strides, lies_last, unflattened

NAME = "libconvbias.so"
VARIABLE = "CONVBIAS_LIBRARY"

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_ACTIVATIONS = (
    *("", "relu", "relu6", "leaky_relu", "sigmoid", "tanh"),
    *("gelu", "gelu_tanh", "silu", "hardswish"),
)
CODES = {name: code for code, name in enumerate(_ACTIVATIONS)}
_AXES = 4
TERMS = 4


@final
class _Term(ctypes.Structure):
    _fields_ = (
        ("values", ctypes.c_void_p),
        ("strides", ctypes.c_int64 * _AXES),
        ("index", ctypes.c_void_p * _AXES),
    )


@final
class _Field(ctypes.Structure):
    _fields_ = (
        ("axes", ctypes.c_int64),
        ("sizes", ctypes.c_int64 * _AXES),
        ("terms", ctypes.c_int64),
        ("term", _Term * TERMS),
    )


_int, _long, _pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
_FUNCTIONS = {
    "convbias_forward": (None, (_int, _int, _pointer, _pointer, _long, _pointer, _int)),
    "convbias_backward": (
        None,
        (_int, _int, _pointer, _pointer, _pointer, _pointer, _long, _long, _int),
    ),
    "convbias_reduce": (_int, (_pointer, _pointer, _pointer, _int)),
    "convbias_packed_size": (_long, (_int, _pointer)),
    "convbias_pack": (None, (_int, _pointer, _pointer, _pointer, _int)),
    "convbias_convolve": (_int, (_int, _int, *[_pointer] * 6, _int)),
    "convbias_chain": (_int, (_pointer, _long, _pointer, _int)),
    "convbias_gradients": (_int, (_int, *[_pointer] * 3, _int)),
    "convbias_turn": (None, (_pointer, _pointer, *[_long] * 3, _int)),
    "convbias_instructions": (ctypes.c_char_p, ()),
    "convbias_use": (_int, (ctypes.c_char_p,)),
}


@functools.cache
def library() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    path = _path()
    if path is None:
        return (
            f"{NAME} was not built; reinstall convbias where there is a C++ compiler with OpenMP "
            "(Debian: apt install g++)"
        )
    try:
        loaded = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return f"{path} cannot be loaded: {error}"
    return loaded


def _path() -> Path | None:
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    # An editable installation has the package's files in two places.
    places = [Path(place) / NAME for place in sys.modules[__name__.rpartition(".")[0]].__path__]
    return next((place for place in places if place.is_file()), None)


def absence() -> str | None:
    """Why there are no own kernels here, or None where there are."""
    found = library()
    return found if isinstance(found, str) else None


def unread(tying: str) -> str | None:
    """Why the own kernels do not read the field of a ``tying``, or None."""
    return f"it adds up to {TERMS} terms" if tying.count("+") >= TERMS else None


def instructions() -> str:
    """The instruction set that the own kernels use: "avx512", "avx2" or "plain"."""
    return _known_instructions()


@functools.cache
def _known_instructions() -> str:
    return loaded().convbias_instructions().decode()


def known_instructions() -> list[str]:
    """The instruction sets that this machine and this build have, widest first."""
    before = instructions()
    known = [name for name in ("avx512", "avx2", "plain") if loaded().convbias_use(name.encode())]
    use(before)
    return known


def use(instructions: str) -> None:
    """Use another instruction set: for tests and comparisons. ValueError where this machine lacks it."""
    kept.forget()
    _known_instructions.cache_clear()
    if not loaded().convbias_use(instructions.encode()):
        raise ValueError(f"instructions={instructions!r}: this machine or this build of convbias lacks them")


@final
class Epilogue:
    """``z ↦ act(z + field)``, written onto ``z``, or beside it where ``z + field`` is to be kept.

    Each ``z`` has samples of the same shape that lie in ``order``. Where it is ``live``, the field is read
    where the summands lie, at every call.
    """

    def __init__(
        self, sample: tuple[int, ...], order: Order, summands: list[Summand], activation: str
    ) -> None:
        self._held = field(sample, order, summands)
        self.live = are_live(self._held[0], summands)
        self._field, self._code = ctypes.addressof(self._held[1]), CODES[activation]
        self._run = loaded().convbias_forward

    def __call__(self, z: Tensor, keep: bool = False) -> Tensor:
        y = torch.empty_like(z) if keep else None
        to = None if y is None else y.data_ptr()
        threads = torch.get_num_threads()
        self._run(TYPES[z.dtype], self._code, z.data_ptr(), to, len(z), self._field, threads)
        return z if y is None else y


def backward(
    saved: Tensor | None, gy: Tensor, order: Order, activation: str, summed: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradient of ``z`` and, where it is to be ``summed``, that over the batch: of the field."""
    sample = tuple(gy.shape[1:])
    gz = torch.empty_like(gy) if activation else gy
    sums = gy.new_empty(math.prod(sample), dtype=torch.float32) if summed else None
    if activation or summed:
        loaded().convbias_backward(
            TYPES[gy.dtype],
            CODES[activation],
            None if saved is None else saved.data_ptr(),
            gy.data_ptr(),
            gz.data_ptr(),
            None if sums is None else sums.data_ptr(),
            len(gy),
            math.prod(sample),
            torch.get_num_threads(),
        )
    return gz, None if sums is None else unflattened(sums, order, sample)


def reduce(sums: Tensor, order: Order, summand: Summand) -> Tensor:
    """The gradient of a summand's values from that of the field, which lies in ``order``."""
    if not summand.index and summand.values.shape == sums.shape:
        return sums
    values = torch.empty_like(summand.values, dtype=torch.float32, memory_format=torch.contiguous_format)
    field = _Field()
    _set_sizes(field, tuple(sums.shape), order)
    _set_term(field, 0, values, summand.index, order)
    count = ctypes.c_int64(values.numel())
    found = loaded().convbias_reduce(
        sums.data_ptr(), ctypes.addressof(field), ctypes.addressof(count), torch.get_num_threads()
    )
    if not found:
        raise MemoryError("no memory for the partial sums of a bias gradient")
    return values


def laid_last(x: Tensor) -> Tensor:
    """``x`` (N, C, *out), of float32, in channels_last: itself where it is."""
    if lies_last(x):
        return x
    y, given = x.new_empty_strided(x.shape, last_strides(x.shape)), x.contiguous()
    _turn(given, y, x.shape[1], math.prod(x.shape[2:]))
    return y


def as_torchs(y: Tensor, input: Tensor, weight: Tensor) -> Tensor:
    """``y`` in the layout that torch's own convolution of ``input`` by ``weight`` has."""
    form = form_of(input, weight)
    single = y.dtype == torch.float32 and y.device.type == "cpu"
    if form is torch.contiguous_format and single and absence() is None and _is_other(y):
        return laid_first(y)
    return y.contiguous(memory_format=form)


def _is_other(y: Tensor) -> bool:
    """Whether ``y`` lies in channels_last, if only by its strides."""
    return lies_last(y) and y.stride() == last_strides(y.shape) != first_strides(y.shape)


def laid_first(x: Tensor) -> Tensor:
    """``x`` (N, C, *out) in channels_last, of float32, with the numbers of each channel together."""
    y = x.new_empty(x.shape)
    _turn(x, y, math.prod(x.shape[2:]), x.shape[1])
    return y


def _turn(x: Tensor, y: Tensor, rows: int, columns: int) -> None:
    loaded().convbias_turn(x.data_ptr(), y.data_ptr(), len(x), rows, columns, torch.get_num_threads())


def field(sample: tuple[int, ...], order: Order, summands: Sequence[Summand]) -> tuple[list[Tensor], _Field]:
    """The field of a ``sample`` as the library reads it, and the tensors that have to live as long."""
    made, held = _Field(), list[Tensor]()
    _set_sizes(made, sample, order)
    for i, summand in enumerate(summands):
        values = summand.values.detach().float()
        held.append(values)
        _set_term(made, i, values, summand.index, order)
    return held, made


def are_live(held: Sequence[Tensor], summands: Sequence[Summand]) -> bool:
    """Whether what is ``held`` for a field are the summands' own numbers, of which none is a copy."""
    return all(h.data_ptr() == s.values.data_ptr() for h, s in zip(held, summands, strict=True))


def _set_sizes(field: _Field, sample: tuple[int, ...], order: Order) -> None:
    field.axes = len(order)
    for a, axis in enumerate(order):
        field.sizes[a] = sample[axis]


def _set_term(field: _Field, i: int, values: Tensor, index: tuple[Tensor, ...], order: Order) -> None:
    field.terms = i + 1
    term, strides = field.term[i], values.stride()
    term.values = values.data_ptr()
    for a, axis in enumerate(order):
        term.strides[a] = 0 if values.shape[axis] == 1 else strides[axis]
        if index and axis and values.shape[axis] > 1:
            term.index[a] = index[axis - 1].data_ptr()


def loaded() -> ctypes.CDLL:
    """The library, which must not be absent."""
    found = library()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found
