"""Convolutions with any bias, as functions: check → plan → call.

    y[n, c, o] = act( Σ_{i,t} W[c, i, t] · x[n, i, o·s − p + t·d]  +  B[c, o] )

Arguments are those of ``torch.nn.functional``, in its order, but for ``bias`` and two keywords:

- ``bias``: None; a tensor ``(C_out,)``, tied; a tensor of 1 + dims axes, each full or 1, the bias field
  itself; or ``(tying, parameters)`` with a tying or its spelling and the tensors it has.
- ``padding_mode``: "zeros", "reflect", "replicate" or "circular", as in the layers.
- ``activation``: None, "relu", "relu6", "gelu", "gelu_tanh", "silu", "leaky_relu" (0.01), "hardswish",
  "sigmoid" or "tanh".
- ``out``: a tensor of the output's shape that it is written to, where no gradient is recorded. Fresh memory
  of large outputs costs more than a small kernel's convolution.

``input`` may lack the batch axis. All of them raise ShapeError for sizes that do not fit and TyingError
for a tying that cannot be read or had.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import ops  # noqa: F401  (registers torch.ops.convbias)
from .errors import ShapeError
from .geometry import Geometry, Site
from .ops.activations import check_activation
from .ops.call import BY_LABEL, Call
from .ops.checks import channels_of, check_groups, check_size, check_tensor, fits
from .ops.few import Few, few_of
from .ops.into import run_into
from .ops.route import at_once, run
from .tying import Labelled, Tying, parse
from .tying.base import check_shapes

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]

# Looking an overload up takes longer than a small convolution.
_OP = torch.ops.convbias.convolution.default

Ints = int | Sequence[int]
BiasLike = Tensor | tuple[str | Tying, Tensor | Sequence[Tensor]] | None


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: BiasLike = None,
    stride: Ints = 1,
    padding: str | Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    activation: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """1D convolution of ``input`` (N, C_in, L) by ``weight`` (C_out, C_in/groups, k), with any bias.

    >>> x, w = torch.ones(1, 1, 5), torch.ones(1, 1, 3)
    >>> conv1d(x, w, ("tap", torch.ones(1, 3)), padding=1)  # added to each entry, then summed
    tensor([[[4., 6., 6., 6., 4.]]])
    """
    where = (1, stride, padding, dilation, padding_mode, False, 0)
    return _convolution(input, weight, bias, where, groups, activation, out)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: BiasLike = None,
    stride: Ints = 1,
    padding: str | Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    activation: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """2D convolution of ``input`` (N, C_in, H, W) by ``weight`` (C_out, C_in/groups, kh, kw), with any bias.

    >>> x, w = torch.zeros(2, 3, 8, 8), torch.zeros(4, 3, 3, 3)
    >>> conv2d(x, w, torch.randn(4, 6, 6)).shape  # untied: one bias per filter and output location
    torch.Size([2, 4, 6, 6])
    """
    where = (2, stride, padding, dilation, padding_mode, False, 0)
    return _convolution(input, weight, bias, where, groups, activation, out)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: BiasLike = None,
    stride: Ints = 1,
    padding: str | Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    activation: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """3D convolution of ``input`` (N, C_in, D, H, W) by ``weight`` (C_out, C_in/groups, kd, kh, kw).

    >>> x, w = torch.zeros(3, 8, 8, 8), torch.zeros(4, 3, 1, 1, 1)
    >>> conv3d(x, w, torch.ones(4, 8, 1, 1), activation="relu").shape  # one bias per filter and depth
    torch.Size([4, 8, 8, 8])
    """
    where = (3, stride, padding, dilation, padding_mode, False, 0)
    return _convolution(input, weight, bias, where, groups, activation, out)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: BiasLike = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    activation: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """1D transposed convolution of ``input`` (N, C_in, L) by ``weight`` (C_in, C_out/groups, k), any bias.

    >>> x, w = torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)
    >>> conv_transpose1d(x, w, ("tap", torch.ones(1, 3)), stride=2)  # one number per stride phase
    tensor([[[1., 1., 2., 1., 2., 1., 1.]]])
    """
    where = (1, stride, padding, dilation, "zeros", True, output_padding)
    return _convolution(input, weight, bias, where, groups, activation, out)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: BiasLike = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    activation: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """2D transposed convolution of ``input`` (N, C_in, H, W) by ``weight`` (C_in, C_out/groups, kh, kw).

    >>> x, w = torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 2, 2)
    >>> conv_transpose2d(x, w, torch.ones(4, 8, 8), stride=2).shape
    torch.Size([2, 4, 8, 8])
    """
    where = (2, stride, padding, dilation, "zeros", True, output_padding)
    return _convolution(input, weight, bias, where, groups, activation, out)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: BiasLike = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    activation: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """3D transposed convolution of ``input`` (N, C_in, D, H, W) by ``weight`` (C_in, C_out/groups, …).

    >>> x, w = torch.zeros(2, 3, 4, 4, 4), torch.zeros(3, 4, 2, 2, 2)
    >>> conv_transpose3d(x, w, torch.ones(4), stride=2).shape
    torch.Size([2, 4, 8, 8, 8])
    """
    where = (3, stride, padding, dilation, "zeros", True, output_padding)
    return _convolution(input, weight, bias, where, groups, activation, out)


def call(
    input: Tensor,
    weight: Tensor,
    bias: Sequence[Tensor],
    tying: str,
    geometry: Geometry,
    groups: int,
    activation: str,
    out: Tensor | None = None,
) -> Tensor:
    """The op, for arguments that have been checked."""
    if out is not None:
        return run_into(Call(input, weight, bias, tying, geometry, groups, activation), out)
    if not is_compiling():
        # The op's body: what runs at once needs no way through the dispatcher, which takes its time.
        return run(Call(input, weight, bias, tying, geometry, groups, activation))
    return _OP(
        input,
        weight,
        bias,
        tying,
        geometry.stride,
        [p for pair in geometry.pads for p in pair],
        geometry.dilation,
        geometry.padding_mode,
        geometry.transposed,
        geometry.output_padding,
        groups,
        activation,
    )


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: BiasLike,
    where: tuple[Any, ...],
    groups: int,
    activation: str | None,
    out: Tensor | None,
) -> Tensor:
    check_tensor("input", input)
    check_tensor("weight", weight)
    if bias is None:
        biases, spelled = [], None
    elif isinstance(bias, Tensor):
        biases, spelled = [bias], bias.shape
    else:
        biases, spelled = _read(bias)
    arguments = (input.shape, weight.shape, spelled, groups, activation, *where)
    known = spelled is None or isinstance(spelled, torch.Size) or isinstance(spelled[0], str)
    if is_compiling() or not known:
        plan, few = _plan(*arguments), None
    else:
        plan, few = _looked_up(arguments)
    if plan.labels is not None:
        biases = [*biases, plan.labels.to(biases[0].device)]
    if few is not None and out is None and at_once():
        return few(input, weight, biases)
    return call(input, weight, biases, plan.tying, plan.geometry, groups, plan.activation, out)


def _looked_up(arguments: tuple[Any, ...]) -> tuple[_Plan, Few | None]:
    try:
        return _known_plan(*arguments)
    except TypeError:  # a list, or a size that is a symbol
        arguments = tuple(tuple(given) if isinstance(given, list) else given for given in arguments)
    try:
        return _known_plan(*arguments)
    except TypeError:
        return _plan(*arguments), None


def _read(
    bias: tuple[str | Tying, Tensor | Sequence[Tensor]],
) -> tuple[list[Tensor], tuple[str | Tying, tuple[torch.Size, ...]]]:
    """The tensors of a tying and its parameters; the tying, and the tensors' shapes."""
    if not (isinstance(bias, tuple | list) and len(bias) == 2):  # pyright: ignore[reportUnnecessaryIsInstance]
        rule = "must be None, a tensor, or a tying and its parameters, such as ('tap', taps)"
        raise TypeError(f"bias of type {type(bias).__name__}: {rule}")
    tying, parameters = bias
    if not isinstance(parameters, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        check_tensor("bias[1]", parameters)
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for tensor in tensors:
        check_tensor("bias[1]", tensor)
    return tensors, (tying, tuple(tensor.shape for tensor in tensors))


_Spelled = torch.Size | tuple[str | Tying, tuple[torch.Size, ...]] | None


class _Plan(NamedTuple):
    """What follows from the shapes and numbers of a call; the labels of a tying that has some."""

    geometry: Geometry
    tying: str
    activation: str
    labels: Tensor | None = None


def _plan(
    input: torch.Size,
    weight: torch.Size,
    bias: _Spelled,
    groups: int,
    activation: str | None,
    *where: Any,
) -> _Plan:
    """For no bias, one that is tied or the field itself, of this size, or a tying with parameters' shapes."""
    geometry, name, site = _check(input, weight, groups, activation, *where)
    if bias is None:
        return _Plan(geometry, "none", name)
    if not isinstance(bias, torch.Size):
        tying = parse(bias[0])
        check_shapes(tying, bias[1], site)
        if isinstance(tying, Labelled):
            return _Plan(geometry, BY_LABEL, name, tying.labels_at(site))
        return _Plan(geometry, repr(tying), name)
    full = (site.channels,) if len(bias) == 1 else site.field_shape
    if not (tuple(bias) == full if len(bias) == 1 else fits(bias, full)):
        raise ShapeError(
            "bias",
            list(bias),
            f"must be ({site.channels},), or have the axes {site.field_shape}, each full or 1; "
            "for another tying pass (tying, parameters)",
        )
    return _Plan(geometry, "tied" if len(bias) == 1 else "untied", name)


# To look a plan up takes a tenth of the time of making it, which is longer than a small convolution's.
@functools.lru_cache(maxsize=1024, typed=True)
def _known_plan(
    input: torch.Size, weight: torch.Size, bias: _Spelled, groups: int, *others: Any
) -> tuple[_Plan, Few | None]:
    """The plan, and what runs a small call at once."""
    # Labels that are kept are for calls of which a gradient is recorded too.
    with torch.inference_mode(False):
        plan = _plan(input, weight, bias, groups, *others)
    return plan, few_of(input, weight, None, plan.geometry, plan.tying, groups, plan.activation)


def _check(
    input: torch.Size,
    weight: torch.Size,
    groups: int,
    activation: str | None,
    dims: int,
    stride: Ints,
    padding: str | Ints,
    dilation: Ints,
    padding_mode: str,
    transposed: bool,
    output_padding: Ints,
) -> tuple[Geometry, str, Site]:
    if len(weight) != dims + 2:
        raise ShapeError("weight", list(weight), f"needs {dims + 2} axes, for {dims}D kernels")
    check_groups(groups)
    geometry = Geometry.of(
        dims,
        tuple(weight[2:]),
        stride,
        padding,
        dilation,
        padding_mode=padding_mode,
        transposed=transposed,
        output_padding=output_padding,
    )
    check_size(input, weight, geometry, groups)
    _, channels = channels_of(weight, groups, transposed)
    return geometry, check_activation(activation), Site.of(channels, geometry, input[-dims:])
