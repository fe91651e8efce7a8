"""A residual is added before the activation: whoever convolves, it is the same sum."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import convbias
from convbias.errors import ShapeError
from convbias.ops import convolve, native
from convbias.ops.activations import ACTIVATIONS
from layer_cases import expected

# What a layer is made of, and its image.
LAYERS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "small": ({"in_channels": 3, "out_channels": 5, "kernel_size": 3}, (2, 3, 7, 9)),
    "pointwise": ({"in_channels": 40, "out_channels": 50, "kernel_size": 1}, (2, 40, 21, 20)),
    "slices": ({"in_channels": 500, "out_channels": 290, "kernel_size": 1}, (2, 500, 7, 9)),
    "gathered": ({"in_channels": 64, "out_channels": 70, "kernel_size": 3, "stride": 2}, (2, 64, 21, 20)),
    "winograd": ({"in_channels": 32, "out_channels": 40, "kernel_size": 3, "padding": 1}, (2, 32, 23, 22)),
    "direct": ({"in_channels": 4, "out_channels": 8, "kernel_size": 3, "padding": 1}, (2, 4, 61, 60)),
    "depthwise": (
        {"in_channels": 37, "out_channels": 37, "kernel_size": 5, "groups": 37, "padding": 2},
        (2, 37, 22, 20),
    ),
    "onednn": ({"in_channels": 64, "out_channels": 124, "kernel_size": 5}, (1, 64, 20, 21)),
}
over_layers = pytest.mark.parametrize("name", LAYERS)
over_forms = pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)


def made(
    name: str, form: torch.memory_format, bias: str = "tied", activation: str | None = "relu"
) -> tuple[convbias.Conv2d, Tensor, Tensor]:
    """The layer, its input and a residual."""
    words, shape = LAYERS[name]
    size = convbias.Conv2d(**words).geometry().output_size(shape[2:])
    layer = convbias.Conv2d(**words, bias=bias, output_size=size, activation=activation)
    for parameter in list(layer.parameters())[1:]:
        torch.nn.init.normal_(parameter)
    layer.to(memory_format=form)  # pyright: ignore[reportCallIssue]
    x = torch.randn(shape).contiguous(memory_format=form)
    return layer, x, torch.randn(shape[0], words["out_channels"], *size).contiguous(memory_format=form)


def wanted(layer: convbias.Conv2d, x: Tensor, residual: Tensor) -> Tensor:
    bare = copy.deepcopy(layer).double()
    bare.activation = None
    y = expected(bare, x.double()) + residual.double()
    return ACTIVATIONS[layer.activation](y) if layer.activation else y


@over_layers
@over_forms
@pytest.mark.parametrize("bias", ["none", "tied", "untied", "c h + c w", "tap"])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_the_sum(name: str, form: torch.memory_format, bias: str, activation: str | None) -> None:
    layer, x, residual = made(name, form, bias, activation)
    before = residual.clone()
    with torch.no_grad():
        for given in (residual, residual.contiguous(), residual.to(memory_format=torch.channels_last)):
            for _ in range(2):
                y = layer(x, given)
                assert y.stride() == layer(x).stride()
                assert_close(y.double(), wanted(layer, x, residual), rtol=1e-5, atol=5e-5)
                assert torch.equal(given, before)
        with convbias.backend("aten"):
            assert_close(layer(x, residual).double(), wanted(layer, x, residual), rtol=1e-5, atol=5e-5)


@pytest.mark.skipif(native.absence() is not None, reason=f"no own kernels: {native.absence()}")
@pytest.mark.parametrize(
    "name", ["pointwise", "slices", "gathered", "winograd", "direct", "depthwise", "onednn"]
)
def test_it_is_added_within_the_convolution(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, residual = made(name, torch.channels_last)
    with torch.no_grad():
        layer(x, residual)
        monkeypatch.setattr("convbias.ops.route.run", None)
        layer(x, residual)


@over_layers
def test_gradients(name: str) -> None:
    layer, x, residual = made(name, torch.channels_last, "untied", "tanh")
    double = copy.deepcopy(layer).double()
    found = []
    for one, type in ((layer, torch.float32), (double, torch.float64)):
        leaves = [x.to(type).requires_grad_(), residual.to(type).requires_grad_(), *one.parameters()]
        y = one(leaves[0], leaves[1])
        found.append([y, *torch.autograd.grad(y.sum(), leaves)])
    for mine, theirs in zip(*found, strict=True):
        assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-5 * float(theirs.detach().abs().max()))


@pytest.mark.parametrize("name", ["small", "pointwise"])
def test_compiled(name: str, compile_backend: str) -> None:
    layer, x, residual = made(name, torch.channels_last)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_close(
            torch.compile(layer, backend=compile_backend)(x, residual),
            layer(x, residual),
            rtol=1e-5,
            atol=5e-5,
        )


def test_other_types_are_torchs_business() -> None:
    layer, x, residual = made("pointwise", torch.channels_last)
    with torch.no_grad():
        assert layer(x, residual.double()).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x, residual.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["small", "pointwise"])
@pytest.mark.parametrize("cut", [lambda r: r[:1], lambda r: r[:, :1], lambda r: r[..., :1], lambda r: r[0]])
def test_another_shape_is_refused(name: str, cut: Any) -> None:
    layer, x, residual = made(name, torch.contiguous_format)
    with torch.no_grad(), pytest.raises(ShapeError, match=r"residual=.*must have the output's shape, \[2, "):
        layer(x, cut(residual))


@pytest.mark.skipif(convolve.missing() is not None, reason=str(convolve.missing()))
@over_layers
@pytest.mark.parametrize("bias", ["tied", "untied"])
def test_what_is_no_number_stays_none(name: str, bias: str) -> None:
    """oneDNN's own relu makes a NaN 0."""
    layer, x, residual = made(name, torch.channels_last, bias)
    x[0, 1, 3, 4] = torch.nan
    with torch.no_grad(), convbias.backend(winograd=False):
        lost = wanted(layer, x, residual).isnan()
        out = torch.zeros_like(residual)
        words: dict[str, Any] = {
            "stride": layer.stride,
            "padding": layer.padding,
            "groups": layer.groups,
            "activation": "relu",
        }
        convbias.functional.conv2d(x, layer.weight, layer.get_parameter("bias"), **words, out=out)
        for y in (layer(x, residual), layer(x), out):
            # Few filters' outputs are computed with their neighbours', and so is the NaN.
            found = y.isnan() & lost if name == "direct" else y.isnan()
            assert torch.equal(found, lost)
