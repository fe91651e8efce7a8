"""Small calls where no gradient is recorded: torch's steps at once, and the same answers as by asking."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.testing import assert_close

import convbias
from convbias import ShapeError, functional
from convbias.nn import convnd
from convbias.ops import convolve, native, route
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
        with pytest.raises(ShapeError, match=r"expected input.* to have 2 channels, but got 1"):
            layer(x[:, 1:])
        with pytest.raises(TypeError, match="must be a tensor, not list"):
            layer([1.0])


def test_heavy_weights_are_kept_in_their_order() -> None:
    layer = convbias.Conv2d(160, 160, 3, padding=1)
    x = torch.randn(1, 160, 4, 4).to(memory_format=torch.channels_last)
    with torch.no_grad():
        (told,) = convbias.explain_route(layer, x)
        y = layer(x)
    assert_close(y, expected(layer, x).detach(), rtol=1e-4, atol=1e-4)
    assert convolve.missing() is not None or told.packed_bytes > 0
    assert bool(layer._settled.values())


@pytest.mark.skipif(native.absence() is not None, reason=str(native.absence()))
def test_own_kernels_where_they_are_chosen() -> None:
    made = plain("untied", activation="relu")
    layer, x = made.make(torch.float32), made.input(dtype=torch.float32)
    with torch.no_grad():
        assert convbias.explain_route(layer, x)[0].epilogue == "steps"
        with convbias.backend("native"):
            assert convbias.explain_route(layer, x)[0].epilogue == "native"
            assert_close(layer(x), expected(layer, x).detach())
