"""Single volumes whose gradient is recorded: torch's numbers, not by torch's slow way."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import convbias
from convbias.geometry import Geometry
from convbias.ops import convolve, native, volumes
from convbias.ops.call import Call
from convbias.ops.trained import trained

pytestmark = pytest.mark.skipif(convolve.missing() is not None, reason="torch lacks the private operators")

LAST = torch.channels_last_3d
CHANNELS, FILTERS = 2, 3
# Flat along each of the axes in turn, and no two axes alike.
CASES: list[tuple[tuple[int, int, int], dict[str, Any]]] = [
    ((3, 104, 100), {"kernel_size": 3, "padding": 1}),
    ((104, 3, 100), {"kernel_size": (2, 3, 1), "padding": (0, 1, 0), "stride": (1, 2, 3)}),
    ((7, 109, 99), {"kernel_size": (3, 2, 3), "padding": (2, 0, 1), "dilation": (1, 2, 3)}),
]
SIZE = CASES[0][0]
TYINGS = ["untied", "c d", "tied", "tap", "none"]


def whole(*shape: int) -> Tensor:
    return torch.randint(-3, 4, shape).float()


def made(size: tuple[int, ...], tying: str, activation: str | None, **options: Any) -> convbias.Conv3d:
    options = {"kernel_size": 3, "padding": 1, **options}
    geometry = Geometry.of(3, **options)
    out: Any = geometry.output_size(size)
    layer = convbias.Conv3d(CHANNELS, FILTERS, bias=tying, output_size=out, activation=activation, **options)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            # Half a number away from relu's kink.
            parameter.copy_(whole(*parameter.shape) + (0.5 if name != "weight" and tying != "tap" else 0))
    return layer


def defined(layer: convbias.Conv3d, x: Tensor, gy: Tensor) -> tuple[Tensor, list[Tensor]]:
    twin, x = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    padding: Any = twin.padding
    y = F.conv3d(x, twin.weight, None, twin.stride, padding, twin.dilation)
    if layer.tying != convbias.parse("none"):
        y = y + twin.bias_field(tuple(y.shape[2:]), input_size=tuple(x.shape[2:]))
    y = {None: lambda y: y, "relu": torch.relu, "gelu": F.gelu}[layer.activation](y)
    return y.detach(), list(torch.autograd.grad(y, [x, *twin.parameters()], gy.double()))


class Backends(TorchDispatchMode):
    """By which of its ways torch makes the gradients of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            _, input, weight, _, *where, _ = args
            if input.shape[1] == CHANNELS:  # a tap bias convolves a plane of ones
                self.seen.append(way_of(input, weight, *where))
        return func(*args, **kwargs or {})


def way_of(input: Tensor, weight: Tensor, *where: Any) -> str:
    select: Any = torch._C._select_conv_backend  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    return select(input, weight, None, *where, None).name


def near(mine: Tensor, gradient: Tensor) -> None:
    assert_close(mine.double(), gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def check(layer: convbias.Conv3d, x: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's output and the gradient of ``x``, which are right, and not by the slow way."""
    y = layer(x)
    gy = whole(*y.shape)
    wanted, gradients = defined(layer, x, gy)
    with Backends() as backends:
        found = torch.autograd.grad(y, [x, *layer.parameters()], gy)
    assert backends.seen == ["Mkldnn"]
    assert_close(y.double(), wanted, rtol=1e-5, atol=1e-4)
    for mine, gradient in zip(found, gradients, strict=True):
        near(mine, gradient)
    return y, found[0]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("tying", TYINGS)
@pytest.mark.parametrize(("size", "options"), CASES)
def test_a_step_of_one_volume(
    size: tuple[int, ...], options: dict[str, Any], tying: str, activation: str | None, last: bool
) -> None:
    torch.manual_seed(0)
    form = LAST if last else torch.contiguous_format
    layer = made(size, tying, activation, **options)
    layer.to(memory_format=form)  # pyright: ignore[reportCallIssue]
    x = whole(1, CHANNELS, *size).to(memory_format=form).requires_grad_()
    y, gx = check(layer, x)
    assert y.is_contiguous(memory_format=form)
    assert gx.is_contiguous(memory_format=form)


SIDES = st.integers(1, 150)
FLAT: dict[str, Any] = {"channels": 2, "size": SIZE, "n": 1, "kind": torch.float32}


@example(**FLAT, kernel=(3, 3, 3), groups=1)
@example(**FLAT, kernel=(3, 3, 3), groups=2)
@example(**FLAT, kernel=(3, 4, 4), groups=1)
@example(**FLAT, kernel=(4, 4, 3), groups=1)
@given(
    channels=st.integers(1, 8),
    size=st.tuples(SIDES, SIDES, SIDES),
    kernel=st.tuples(*[st.integers(1, 5)] * 3),
    groups=st.sampled_from([1, 2]),
    n=st.sampled_from([1, 2]),
    kind=st.sampled_from([torch.float32, torch.float64]),
)
def test_axes_change_places_where_torch_would_be_slow(
    channels: int,
    size: tuple[int, int, int],
    kernel: tuple[int, int, int],
    groups: int,
    n: int,
    kind: torch.dtype,
) -> None:
    # Of numbers that need no memory.
    input = torch.zeros((), dtype=kind).expand(n, channels * groups, *size)
    weight = torch.zeros((), dtype=kind).expand(groups, channels, *kernel)
    geometry = Geometry.of(3, kernel, padding=4)
    where = ([1] * 3, [4] * 3, [1] * 3, False, [0] * 3, groups)
    slow = volumes.is_slow(Call(input, weight, (), "none", geometry, groups, ""))
    order = sorted(range(3), key=lambda axis: -size[axis])
    turned = [x.permute(0, 1, *(2 + axis for axis in order)) for x in (input, weight)]
    ways = way_of(input, weight, *where), way_of(*turned, *where)
    # More threads than one, or more taps: pointwise ones of one thread are nobody's hurry.
    if torch.get_num_threads() > 1 or kernel[1:] != (1, 1):
        assert not slow or ways == ("Slow3d", "Mkldnn")
        assert slow or ways != ("Slow3d", "Mkldnn") or min(turned[1].shape[-2:]) > 3


def test_it_is_told_and_left_to_torch_by_aten() -> None:
    layer, x = made(SIZE, "untied", "relu"), torch.zeros(1, CHANNELS, *SIZE)
    told = convbias.explain_route(layer, x)[0]
    assert told.convolution == "onednn"
    with profile(activities=[ProfilerActivity.CPU]) as ran:
        layer(x)
    assert "mkldnn::_convolution_pointwise" in {event.key for event in ran.key_averages()}
    assert told.epilogue == ("native" if native.absence() is None else "in_place")
    assert convbias.explain_route(layer, torch.cat([x, x]))[0].convolution == "torch"
    with convbias.backend("aten"):
        assert convbias.explain_route(layer, x)[0].convolution == "torch"


def test_what_is_padded_otherwise_is_told_as_torchs() -> None:
    layer = convbias.Conv3d(CHANNELS, FILTERS, 3, padding=1, padding_mode="circular", activation="relu")
    (told,) = convbias.explain_route(layer, torch.zeros(1, CHANNELS, *SIZE))
    assert (told.convolution, told.epilogue) == ("torch", "in_place")


@pytest.mark.parametrize("frozen", ["weight", "bias", "input"])
def test_what_is_frozen_has_no_gradient(frozen: str) -> None:
    torch.manual_seed(0)
    layer, x = made(SIZE, "untied", "relu"), whole(1, CHANNELS, *SIZE)
    y = layer(x.requires_grad_())
    gy = whole(*y.shape)
    _, gradients = defined(layer, x, gy)
    names = ["input", "weight", "bias"]
    (x if frozen == "input" else layer.get_parameter(frozen)).requires_grad_(False)
    tensors = dict(zip(names, [x, *layer.parameters()], strict=True))
    left = [name for name in names if name != frozen]
    found = torch.autograd.grad(layer(x), [tensors[name] for name in left], gy)
    for name, mine in zip(left, found, strict=True):
        near(mine, gradients[names.index(name)])


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_gradients_of_gradients_and_many_at_once(activation: str | None) -> None:
    torch.manual_seed(0)
    layer, x = made(SIZE, "untied", activation), whole(1, CHANNELS, *SIZE).requires_grad_()
    given = [x, *layer.parameters()]
    y = layer(x)
    many = torch.randn(2, *y.shape)
    together = torch.autograd.grad(y, given, many, is_grads_batched=True, retain_graph=True)
    for row, gy in enumerate(many):
        for mine, alone in zip(together, torch.autograd.grad(y, given, gy, retain_graph=True), strict=True):
            assert_close(mine[row], alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))
    mapped = torch.func.vmap(lambda gy: torch.autograd.grad(y, given, gy, retain_graph=True))(many)
    for mine, theirs in zip(mapped, together, strict=True):
        assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))

    def twice(tensors: list[Tensor], y: Tensor) -> tuple[Tensor, ...]:
        gradients = torch.autograd.grad(y, tensors[:2], many[0].to(y.dtype), create_graph=True)
        return torch.autograd.grad(gradients[0].square().sum() + gradients[1].square().sum(), tensors[:2])

    with convbias.backend("aten"):
        twin = copy.deepcopy(layer).double()
        x_too = x.detach().double().requires_grad_()
        wanted = twice([x_too, *twin.parameters()], twin(x_too))
    for mine, theirs in zip(twice(given, layer(x)), wanted, strict=True):
        assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_without_own_kernels_the_convolution_alone_is_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "absence", lambda: "they were not built")
    layer, x = made(SIZE, "untied", "relu"), whole(1, CHANNELS, *SIZE).requires_grad_()
    step = trained(Call(x, layer.weight, list(layer.parameters())[1:], "untied", layer.geometry(), 1, "relu"))
    assert step is not None
    assert not step.is_whole
    check(layer, x)
