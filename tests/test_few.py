"""Small calls where no gradient is recorded: torch's steps at once, and the same answers as by asking."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import Parameter
from torch.testing import assert_close

import convbias
from convbias import ShapeError, functional
from convbias.nn import convnd
from convbias.ops import convolve, few, native, route
from convbias.tying import Regions
from layer_cases import SOME, Case, expected, over, plain

FLAT = [case for case in SOME if case.layer.dims < 3]


class Asked(Exception):
    """Somebody was asked who follows a call, which takes as long as a small convolution does."""


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: Any) -> None:
        raise Asked

    for room in (route, convnd):
        monkeypatch.setattr(room, "follower", ask)


@over([case for case in FLAT if not isinstance(case.tying, Regions)])  # which no text spells
@pytest.mark.usefixtures("unasked")
def test_as_a_function(case: Case) -> None:
    layer, x = case.make(), case.input()
    options = {k: v for k, v in case.layer.options.items() if k != "output_size"}
    run = getattr(functional, case.layer.kind.replace("Conv", "conv").replace("Transpose", "_transpose"))
    given = [p.detach() for p in layer._bias_parameters()]
    bias = (repr(case.tying), given) if given else None
    wanted = expected(layer, x).detach()
    with torch.no_grad():
        assert_close(run(x, layer.weight, bias, **options), wanted)
        assert_close(run(x[0], layer.weight, bias, **options), wanted[0])
    with pytest.raises(Asked):
        run(x, layer.weight, bias, **options)


@over(FLAT)
@pytest.mark.usefixtures("unasked")
def test_as_a_layer(case: Case) -> None:
    layer, x = case.make(), case.input()
    if layer._computed:
        # What is written out once is looked up, and so asked for.
        with pytest.raises(Asked), torch.no_grad():
            layer(x)
        return
    wanted = expected(layer, x).detach()
    with torch.no_grad():
        assert_close(layer(x), wanted)
        assert_close(layer(x[0]), wanted[0])
        with pytest.raises(Asked), convbias.backend("native"):
            layer(x)
    with pytest.raises(Asked):
        layer(x)


def test_parameters_are_read_where_they_are() -> None:
    layer, x = plain("untied", activation="tanh").make(), plain("untied").input()
    with torch.no_grad():
        layer(x)
        layer.weight.data.mul_(2)
        layer.get_parameter("bias").data.add_(1)
        assert_close(layer(x), expected(layer, x))
        layer.weight = Parameter(torch.randn_like(layer.weight))
        layer.activation = None
        assert_close(layer(x), expected(layer, x))


def test_what_does_not_fit_is_refused_as_ever() -> None:
    layer, x = plain("c h").make(), plain("c h").input()
    with torch.no_grad():
        layer(x)
        with pytest.raises(
            ShapeError, match=r"gives an output of \(5, 6\), but the bias of this layer is for"
        ):
            layer(x[:, :, 1:])
        with pytest.raises(
            ShapeError, match=r"gives an output of \(6, 5\), but the bias of this layer is for"
        ):
            layer(x[..., 1:])
        with pytest.raises(ShapeError, match=r"expected input.* to have 2 channels, but got 1"):
            layer(x[:, 1:])
        with pytest.raises(TypeError, match="must be a tensor, not list"):
            layer([1.0])


def test_heavy_weights_are_kept_in_their_order() -> None:
    layer = convbias.Conv2d(160, 160, 3, padding=1)
    x = torch.randn(1, 160, 4, 4).to(memory_format=torch.channels_last)
    with torch.no_grad():
        y = layer(x)
        assert layer._settled.values()
        (told,) = convbias.explain_route(layer, x)
    assert_close(y, expected(layer, x).detach(), rtol=1e-4, atol=1e-4)
    assert convolve.missing() is not None or told.packed_bytes > 0


@pytest.mark.skipif(native.absence() is not None, reason=str(native.absence()))
def test_own_kernels_where_they_are_chosen() -> None:
    made = plain("untied", activation="relu")
    layer, x = made.make(torch.float32), made.input(dtype=torch.float32)
    with torch.no_grad():
        assert convbias.explain_route(layer, x)[0].epilogue == "steps"
        with convbias.backend("native"):
            assert convbias.explain_route(layer, x)[0].epilogue == "native"
            assert_close(layer(x), expected(layer, x).detach())


@pytest.mark.parametrize(
    ("tying", "name", "shape"),
    [
        ("untied", "bias", (5, 4, 6, 6)),
        ("untied", "bias", (4, 6, 7)),
        ("c h", "bias", (8, 6, 1)),
        ("untied", "weight", (1, 2, 3, 3)),
        ("", "weight", (4, 2, 2, 2)),
        ("untied", "weight", (4, 2, 8, 8)),
        ("c + h w", "bias_1", (1, 7, 6)),
    ],
)
def test_no_output_grows_by_a_parameter_that_does_not_fit(
    tying: str, name: str, shape: tuple[int, ...]
) -> None:
    layer, x = plain(tying).make(), plain(tying).input(1)
    setattr(layer, name, Parameter(torch.randn(*shape, dtype=torch.float64)))
    told: list[type[Exception] | torch.Size] = []
    for recording in (True, False):
        with torch.set_grad_enabled(recording):
            try:
                told.append(layer(x).shape)
            except (RuntimeError, ValueError) as error:
                told.append(type(error))
    assert told[0] == told[1]


def test_what_is_odd_in_one_layer_is_not_in_another() -> None:
    x = torch.randn(1, 2, 5, 5)
    odd, even = convbias.Conv2d(2, 2, 3), convbias.Conv2d(2, 2, 3)
    odd.groups = 1.0  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        with pytest.raises(TypeError):
            odd(x)
        assert even(x).shape == (1, 2, 3, 3)
    with pytest.raises(ShapeError, match="groups must be a positive integer"):
        convbias.Conv2d(2, 2, 3, groups=True)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: convbias.ConvTranspose2d(3, 64, 4, stride=4), 36),
        (lambda: convbias.Conv2d(3, 8, 3, padding=30), 36),
        (lambda: convbias.Conv2d(3, 1, 3, stride=8), 80),
    ],
)
def test_neither_input_nor_output_may_be_large(make: Any, size: int, unasked: None) -> None:
    layer, x = make(), torch.randn(1, 3, size, size)
    run = functional.conv_transpose2d if layer.transposed else functional.conv2d
    with torch.no_grad():
        with pytest.raises(Asked):
            layer(x)
        with pytest.raises(Asked):
            run(x, layer.weight, stride=layer.stride, padding=layer.padding)


@pytest.mark.parametrize("recording", [False, True])
def test_a_bias_of_another_kind_of_numbers(recording: bool) -> None:
    x, w = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    with torch.set_grad_enabled(recording):
        for input, weight, bias in (
            (x.long(), w.long(), torch.full((1, 1, 1), 0.5)),
            (x, w, torch.ones(1, 1, 1, dtype=torch.complex64)),
        ):
            with pytest.raises(
                ValueError, match=r"bias of torch.\w+: must be of the output's kind of numbers"
            ):
                functional.conv2d(input, weight, bias)
        assert functional.conv2d(x, w, torch.ones(1, 1, 1).double()).dtype == torch.float32


def test_who_follows_is_told_where_someone_does() -> None:
    layer, x = convbias.Conv2d(1, 2, 3, bias="untied", output_size=(4, 4)), torch.zeros(1, 1, 6, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (told,) = convbias.explain_route(layer, x)
    assert set(told.not_epilogue.values()) == {"autocast is on"}


def test_settings_that_changed_in_place() -> None:
    layer, x = convbias.Conv2d(1, 2, 3), torch.zeros(1, 1, 6, 6)
    layer.stride = [1, 1]  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        assert layer(x).shape == (1, 2, 4, 4)
        layer.stride[0] = 2  # pyright: ignore[reportIndexIssue]
        assert layer(x).shape == (1, 2, 2, 4)
    for recording in (False, True):
        layer.activation = "foo"
        with torch.set_grad_enabled(recording), pytest.raises(ValueError, match="activation='foo'"):
            layer(x)


def test_labels_that_were_first_wanted_in_inference_mode() -> None:
    x, w, theta = torch.randn(1, 1, 9, 9), torch.randn(1, 1, 3, 3), torch.randn(1, 10, requires_grad=True)
    with torch.inference_mode():
        functional.conv2d(x, w, ("sym:d4", theta))
    functional.conv2d(x, w, ("sym:d4", theta)).sum().backward()
    assert theta.grad is not None


def test_sizes_that_are_symbols() -> None:
    x, w = torch.randn(1, 1, 6, 6), torch.randn(1, 1, 3, 3)
    traced = make_fx(lambda x, w: functional.conv2d(x, w), tracing_mode="symbolic")(x, w)
    assert_close(traced(2 * x, w), functional.conv2d(2 * x, w))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_sizes_that_are_tensors_are_not_kept() -> None:
    layer, x = plain("untied", activation="relu").make(), plain("untied").input()
    with torch.no_grad():
        before = few.few_of.cache_info().misses
        traced: Any = torch.jit.trace(layer, x, check_trace=False)
        assert few.few_of.cache_info().misses == before
        assert_close(traced(2 * x), layer(2 * x))


def test_a_weight_that_is_no_tensor() -> None:
    with pytest.raises(TypeError, match="weight=None: must be a tensor"):
        functional.conv2d(torch.zeros(1, 1, 4, 4), None)  # pyright: ignore[reportArgumentType]
