"""Which of convbias's own convolutions runs a call, with its field and activation inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import final

import torch
from torch import Tensor

from ..geometry import Geometry
from . import native, own
from .call import Call, Packed, recorded
from .choice import chosen
from .choice import winograd as winograd_allowed
from .layout import form_of, is_channels_last, last_strides
from .own import Shape

# With fewer outputs, and for whatever is gathered, the form of a weight that is not kept takes longer to make
# than it saves.
_WORTH_PACKING = 512
# Deeper rows, or rows further apart, take as long as torch's: where they do not stay in the first cache, or,
# by AVX2, which multiplies fewer of them at once, in the second one.
_DEEP, _DEEP_BY_AVX2 = 512, 2048
# With fewer products, so does Winograd's gradient of a weight by itself.
_WORTH_TRANSFORMING = 1 << 23


@final
@dataclass(frozen=True, eq=False)
class Plan:
    """The own convolution that is the fastest for inputs of one shape, and its sizes.

    One that is of ``weights_alone`` does not convolve: torch's is as fast but for the gradient of the weight.
    """

    way: str
    shape: Shape
    out: tuple[int, ...]
    weights_alone: bool = False

    @cached_property
    def gradients(self) -> own.Gradients:
        """What makes the gradients of such a convolution."""
        return own.Gradients(self.way, self.shape, self.weights_alone)


@lru_cache(maxsize=1024)
def plan_for(
    input: tuple[int, ...],
    filters: int,
    geometry: Geometry,
    groups: int,
    last: bool,
    winograd: bool,
    recorded: bool = False,
    fielded: bool = False,
    by_avx2: bool = False,
) -> Plan | None:
    """The own convolution that is faster than torch's (benchmarks/bench_ops.py), or None.

    Where inputs do not lie with their channels ``last``, they are turned round before and after. Some are
    faster where no gradient is ``recorded``, or where the output is ``fielded``, over which torch goes again;
    some where vectors are short :func:`by_avx2`.
    """
    shape, out = Shape.of(input, filters, geometry), geometry.output_size(input[2:])
    if shape is None or min(out) < 1:
        return None
    way = _way(shape, groups, winograd, recorded, fielded, by_avx2)
    if way is None or not (last or _is_worth_turning(way, shape, recorded)):
        return None
    return Plan(way, shape, out)


def _is_worth_turning(way: str, shape: Shape, recorded: bool) -> bool:
    if way == "depthwise":
        # Of wide kernels torch's gradients take several times as long.
        return recorded and shape.kernel[1] >= 5
    in_a_row = shape.kernel[0] == 1
    return way == "winograd" and not (in_a_row and recorded and min(shape.channels, shape.filters) < 128)


def by_avx2() -> bool:
    """Whether that is what the own kernels use."""
    return native.absence() is None and native.instructions() == "avx2"


def _way(
    shape: Shape, groups: int, winograd: bool, recorded: bool, fielded: bool, by_avx2: bool
) -> str | None:
    channels, filters = shape.channels, shape.filters
    kernel, dilation = tuple(shape.kernel), tuple(shape.dilation)
    plain = tuple(shape.stride) == dilation == (1, 1)
    if winograd and groups == 1 and _is_winograds(shape, by_avx2 and not recorded) and shape.tiles >= 12:
        return "winograd"
    if not shape.is_of_images:
        return None
    if groups > 1:
        return "depthwise" if groups == channels == filters >= 16 else None
    if kernel == (1, 1) and plain and filters < 16:
        return "direct" if channels <= 64 else None
    if _is_gathered(shape):
        return "gathered"
    if kernel == (1, 1) and not any(shape.before) and filters >= 16:
        # To order so many weights at each call takes longer than is won.
        deepest = _DEEP_BY_AVX2 if by_avx2 and not recorded else _DEEP
        deep = channels * shape.stride[1] > deepest or channels * filters > 2**20
        return None if deep and shape.outputs > 256 else "pointwise"
    # torch's does sixteen filters where there are eight; of deep ones it reads less, most with a stride.
    deepest = 256 if max(shape.stride) == 1 or kernel == (1, 1) else 32
    few = filters <= 8 and channels <= deepest
    shallow = channels * filters <= 2**8 and (fielded or not recorded)
    return "direct" if dilation[1] == 1 and (few or shallow) else None


def _is_winograds(shape: Shape, few: bool = False) -> bool:
    """Whether such a convolution is faster by Winograd's algorithm, of ``few`` channels and filters too.

    Of fewer than 12 channels its error would be more than three times torch's.
    """
    (rows, columns), plain = shape.kernel, tuple(shape.stride) == tuple(shape.dilation) == (1, 1)
    channels, filters = (32, 32) if rows == 1 else (12, 8) if few and shape.is_of_images else (16, 16)
    enough = shape.channels >= channels and shape.filters >= filters
    return rows in (1, 3) and columns == 3 and plain and enough


@lru_cache(maxsize=1024)
def _plan_of_weights(input: tuple[int, ...], filters: int, geometry: Geometry, groups: int) -> Plan | None:
    shape, out = Shape.of(input, filters, geometry), geometry.output_size(input[2:])
    if shape is None or groups > 1 or min(out) < 1 or not _is_winograds(shape):
        return None
    if shape.outputs * filters * shape.channels < _WORTH_TRANSFORMING:
        return None
    return Plan("winograd", shape, out, weights_alone=True)


def _is_gathered(shape: Shape) -> bool:
    """Whether weights are so many for so few outputs that it pays to read them once, or rows lie apart."""
    weights, taps = shape.channels * shape.filters, math.prod(shape.kernel)
    if taps == 1:
        return 4 * shape.outputs <= shape.filters and weights >= 3 * 2**17
    strided = max(shape.stride) > 1 and min(shape.channels, shape.filters) >= 64
    return strided or (shape.outputs <= 128 and weights >= 2**16)


def refusal(call: Call) -> str | None:
    """Why no own convolution runs the whole of ``call``, or None."""
    if call.packed is not None:
        return None if call.packed.way in own.WAYS else f"the weight is packed for {call.packed.way}"
    if recorded(call.tensors):
        return "a gradient is recorded"
    return unfit(call)


def unfit(call: Call) -> str | None:
    """Why no own convolution is faster for ``call``, its weight not packed before, or None."""
    reason = _foreign(call)
    if reason is not None:
        return reason
    found = plan_of(call)
    if found is None:
        return _why_none(call)
    few = found.shape.outputs < _WORTH_PACKING
    if found.way == "gathered" or (few and found.way in ("winograd", "pointwise")):
        return "the weight is not packed before, which takes longer than so few outputs save"
    return None


def _why_none(call: Call) -> str:
    if not winograd_allowed() and _plan(call, _lies_last(call), True) is not None:
        return "Winograd's algorithm is switched off"
    turned = _plan(call, True, winograd_allowed())
    if turned is not None:
        return f"the channels come first, and to turn them takes longer than {turned.way} saves"
    return "no own convolution of such a shape is faster than torch's"


def plan_of(call: Call) -> Plan | None:
    """The plan for ``call``."""
    # Of a circle, torch's padding lies with its channels first.
    round = call.geometry.padding_mode == "circular"
    last = is_channels_last(call.weight) if round else _lies_last(call)
    return _plan(call, last, winograd_allowed())


def _plan(call: Call, last: bool, winograd: bool) -> Plan | None:
    sizes = (tuple(call.input.shape), call.weight.shape[0])
    return plan_for(
        *(*sizes, call.geometry, call.groups, last, winograd),
        *(recorded(call.tensors), call.fielded, by_avx2()),
    )


def plan_of_weights(call: Call) -> Plan | None:
    """The plan for the gradient of the weight alone, where torch convolves; or None."""
    if not _lies_last(call) or not winograd_allowed() or _foreign(call) is not None:
        return None
    return _plan_of_weights(tuple(call.input.shape), call.weight.shape[0], call.geometry, call.groups)


def _lies_last(call: Call) -> bool:
    return form_of(call.input, call.weight) is not torch.contiguous_format


def planned(call: Call) -> Plan:
    """The plan for ``call``, which must be worth it."""
    return known(plan_of(call))


def known(plan: Plan | None) -> Plan:
    """``plan``, where there must be one."""
    if plan is None:
        raise AssertionError("what is not refused has a plan")
    return plan


def run(call: Call) -> Tensor:
    """The whole of ``call``, which must not have been refused."""
    return _run(_convolution(call), call, call.input, None)


def run_into(call: Call, out: Tensor) -> None:
    """The same to ``out``."""
    convolution, given = _convolution(call), _padded(call.geometry, call.input)
    if out.stride() == last_strides(out.shape):
        convolution(given, out=out)
    else:
        out.copy_(convolution(given))


def worth_packing(call: Call) -> bool:
    """Whether an own convolution of inputs like that of ``call`` is faster, its weight packed before."""
    return _foreign(call) is None and plan_of(call) is not None


def pack(call: Call, known: Sequence[Packed] = ()) -> Packed:
    """The weight of ``call``, which must be worth it, or what is ``known`` of it if that is the same."""
    plan = planned(call)
    for packed in known:
        # Of few filters the order depends on the size of the image.
        if packed.way == plan.way != "direct" and len(packed.weight) == own.packed_size(plan.way, plan.shape):
            return Packed(plan.way, packed.weight)
    return Packed(plan.way, own.pack(plan.way, plan.shape, call.weight.detach()))


def ready(call: Call, packed: Packed) -> Packed:
    """``packed`` by :func:`pack`, and all else of ``call`` that can be made ready for inputs like its own."""
    convolution = _convolution(call._replace(packed=packed))
    whole = convolution if call.geometry.padding_mode == "zeros" else None
    return packed._replace(run=partial(_run, convolution), live=convolution.live, whole=whole)


def _convolution(call: Call) -> own.Convolution:
    plan, packed = planned(call), call.packed or pack(call)
    field = (call.bared.summands(), call.activation)
    return own.Convolution(plan.way, plan.shape, packed.weight, plan.out, *field)


def _run(convolution: own.Convolution, call: Call, input: Tensor, residual: Tensor | None) -> Tensor:
    given = _padded(call.geometry, input)
    return native.as_torchs(convolution(given, residual), given, call.weight)


def _padded(geometry: Geometry, input: Tensor) -> Tensor:
    """The input with what is not padded by zeros."""
    return input if geometry.padding_mode == "zeros" else geometry.padded(input)[0]


def _foreign(call: Call) -> str | None:
    """Why no own convolution takes ``call``, however fast it is, or None."""
    input, weight, geometry = call.input, call.weight, call.geometry
    if call.is_small:
        return "the image is small"
    if chosen() == "aten":
        return "the backend 'aten' is chosen"
    if input.dim() != weight.dim() or geometry.transposed:
        return "it is for batches, not transposed"
    if not input.is_cpu or input.dtype != torch.float32 or weight.dtype != torch.float32:
        return "it is for float32 on the CPU"
    if call.is_mistyped:
        return "the bias is of another type"
    if not weight.numel() or max(geometry.kernel_size[:-1], default=1) > own.MOST_ROWS:
        return f"it is for kernels of 1 to {own.MOST_ROWS} rows"
    return native.unread(call.tying) or native.absence()
