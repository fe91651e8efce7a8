"""The whole of a call as one node of the graph that torch.compile makes: Inductor calls what eager mode runs.

Each step by itself, an Inductor of the CPU adds a field as fast as it can, but it sums a bias gradient number
by number, and convolves as torch does. torch.export sees the steps: what it makes goes to other runtimes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..geometry import Geometry
from . import native, packing, route, training
from .activations import ACTIVATIONS
from .call import Call, Packed, recorded
from .choice import SMALL, chosen, winograd
from .epilogue import KEEPING
from .followers import transform
from .kept import Recent
from .layout import field_as, form_of, last_order, layout_of

_WHERE = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, int groups, str activation"
_GIVEN = f"(Tensor input, Tensor weight, Tensor? field, {_WHERE}) -> Tensor"
_GRADIENTS = f"(Tensor gy, Tensor? y, Tensor input, Tensor weight, Tensor? field, {_WHERE}, bool[] wanted)"

_TRACED = frozenset((Tensor, torch.nn.Parameter, FakeTensor, FunctionalTensor))

# What was made of a weight stays for as long as the weight does.
_kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


@final
class _Packing:
    """A weight as kernels want it, and all that is ready for the field of the last call."""

    def __init__(self, packed: Packed | None) -> None:
        self.packed = packed
        self._ready: tuple[object, Packed | None] | None = None

    def ready(self, call: Call) -> Packed | None:
        # A convolution that is live keeps the field's memory from being given to another.
        key = (call.activation, *((field.data_ptr(), field.shape, field.stride()) for field in call.bias))
        known = self._ready  # which another thread may replace meanwhile
        if known is not None and known[0] == key:
            return known[1]
        ready = packing.ready(call, self.packed)
        self._ready = (key, ready) if ready is None or ready.live else None
        return ready


def refusal(call: Call) -> str | None:
    """Why a call is not one node of a compiled graph, or None."""
    input = call.input
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return "torch.compile is not tracing"
    if not _TRACED.issuperset(map(type, call.tensors)) or transform() is not None:
        return "others follow each of its steps"
    if input.device.type != "cpu" or torch.is_autocast_enabled("cpu") or call.geometry.transposed:
        return "there is no own kernel for it"
    others = (tensor.dtype for tensor in call.tensors if tensor.is_floating_point())
    if input.dtype not in native.TYPES or any(dtype != input.dtype for dtype in others):
        return "there is no own kernel for its types"
    if input.dim() != call.weight.dim() or _may_be_small(input):
        return "the image is small"
    return native.absence()


def _may_be_small(input: Tensor) -> bool:
    # Sizes that are symbols bring a computer algebra with them, which takes its time to import.
    from torch.fx.experimental.symbolic_shapes import guard_or_true

    return guard_or_true(input.numel() < SMALL)


def node(call: Call) -> Tensor:
    """``call``, which must not have been refused."""
    input, padding = call.geometry.padded(call.input)
    recording = recorded(call.tensors)
    # What the gradient of these needs is between the field and the activation.
    apart = recording and call.activation in KEEPING
    where = (call.geometry.stride, padding, call.geometry.dilation, call.groups)
    activation = "" if apart else call.activation
    field = call.field() if call.tied is None else call.tied
    if field is not None and field.dim() > 1:
        field = field_as(form_of(input, call.weight), field)
    # An op that has a derivative takes longer to be called.
    op = (torch.ops.convbias.whole_recorded if recording else torch.ops.convbias.whole).default
    y = op(input, call.weight, field, *where, activation)
    return ACTIVATIONS[call.activation](y) if apart else y


def whole(*given: Any, keep: bool = True) -> Tensor:
    """The node's kernel. What is made of the weight is kept for the next call where ``keep`` is true."""
    call = _call(*given)
    with torch.no_grad():
        packed = _packed(call) if keep else None
        call = call._replace(packed=packed)
        if packed is None or packed.run is None or route.watched() or not route.may_write(call.tensors):
            y = route.run(call)
        else:
            y = packed.run(call, call.input, None)
    return native.as_torchs(y, call.input, call.weight)


def whole_recorded(*given: Any) -> Tensor:
    """The same where a gradient is recorded: the weight is another one at the next call."""
    return whole(*given, keep=False)


def whole_backward(gy: Tensor, y: Tensor | None, *given_and_wanted: Any) -> list[Tensor]:
    """The gradients of input, weight and field that are wanted; ``y`` is :func:`whole`'s."""
    *given, wanted = given_and_wanted
    call, like = _call(*given), given[:3]
    dims = call.geometry.dims
    last = form_of(call.input, call.weight) is not torch.contiguous_format
    order = last_order(dims) if last else tuple(range(dims + 1))
    with torch.no_grad():
        summands = call.bared.summands()
        asked = wanted[: 2 + len(summands)]
        found = training.backward(training.plan_of(call, wanted[1]), call, y, gy, order, summands, asked)
    return [_like(x, g) for x, g in zip(like, found, strict=False) if g is not None]


def _like(x: Tensor, gradient: Tensor) -> Tensor:
    """``gradient`` in the shape and the layout of ``x``."""
    gradient = gradient.reshape(x.shape)
    return gradient if gradient.stride() == x.stride() else torch.empty_like(x).copy_(gradient)


def _call(
    input: Tensor,
    weight: Tensor,
    field: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
) -> Call:
    """The node's arguments; a field is tied, (C,), or has an output's axes, each full or 1."""
    geometry = _known_geometry(tuple(weight.shape[2:]), tuple(stride), tuple(padding), tuple(dilation))
    tying = "none" if field is None else "tied" if field.dim() == 1 else "untied"
    return Call(input, weight, [] if field is None else [field], tying, geometry, groups, activation)


def _geometry(
    kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]
) -> Geometry:
    pads = tuple(zip(padding, padding, strict=True))
    return Geometry(kernel, stride, pads, dilation, "zeros", False, (0,) * len(kernel))


# To make one takes longer than a tiny convolution; sizes that are symbols cannot be looked up.
_known_geometry = functools.lru_cache(maxsize=1024)(_geometry)


def _packed(call: Call) -> Packed | None:
    """The weight as the kernel wants it, from an earlier call where nothing has changed since."""
    key = (layout_of(call.input), call.geometry, call.groups, call.fielded, chosen(), winograd())
    recent = _kept.get(call.weight) or Recent[_Packing](holding=False)

    def pack(others: list[_Packing]) -> _Packing:
        return _Packing(packing.packed(call, [other.packed for other in others if other.packed]))

    made = recent.get(pack, [call.weight], key)
    if made is None:
        return None
    _kept.setdefault(call.weight, recent)
    return made.ready(call)


def _fake(input: Tensor, weight: Tensor, field: Tensor | None, *where: Any) -> Tensor:
    geometry = _geometry(tuple(weight.shape[2:]), *map(tuple, where[:3]))
    size = (input.shape[0], weight.shape[0], *geometry.output_size(input.shape[2:]))
    form = form_of(input, weight)
    return torch.empty(size, dtype=input.dtype, device=input.device, memory_format=form)


def _fake_backward(
    gy: Tensor, y: Tensor | None, input: Tensor, weight: Tensor, field: Tensor | None, *rest: Any
) -> list[Tensor]:
    wanted = zip((input, weight, field), rest[-1], strict=True)
    return [torch.empty_like(x) for x, want in wanted if want and x is not None]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, field, *where, activation = inputs
    ctx.where = (*where, activation)
    ctx.save_for_backward(output if activation else None, input, weight, field)


def _backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:3])
    found = iter(torch.ops.convbias.whole_backward.default(gy, *ctx.saved_tensors, *ctx.where, wanted))
    return (*(next(found) if want else None for want in wanted), *(None,) * 5)


def register(library: torch.library.Library) -> None:
    """Define the nodes in ``library``."""
    for schema, kernel, fake in (
        (f"whole{_GIVEN}", whole, _fake),
        (f"whole_recorded{_GIVEN}", whole_recorded, _fake),
        (f"whole_backward{_GRADIENTS} -> Tensor[]", whole_backward, _fake_backward),
    ):
        name = schema.partition("(")[0]
        library.define(schema, tags=(torch.Tag.needs_exact_strides,))
        library.impl(name, kernel, "CPU")
        torch.library.register_fake(f"convbias::{name}", fake, lib=library)
    torch.library.register_autograd("convbias::whole_recorded", _backward, setup_context=_setup, lib=library)
