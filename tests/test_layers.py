"""What the layers offer beyond torch.nn's: their field at any size, the Bias layer, parameter groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import convbias
from convbias import Bias, Conv1d, Conv2d, Conv3d, ConvTranspose2d, Regions, ShapeError, TyingError
from convbias.nn import Biased, ConvNd

LABELS = Regions(torch.arange(24).reshape(4, 6) % 3)
TYINGS = ["none", "tied", "", "h w", "c h", "untied", "c + h w", "tap", "c + tap", "rank:2", "grid:3", LABELS]


def filled(layer: Any) -> Any:
    """``layer`` in float64 with random biases, so that no law holds by chance."""
    layer.double()
    for parameter in layer.parameters():
        parameter.data.normal_()
    return layer


@pytest.mark.parametrize("tying", TYINGS, ids=repr)
def test_the_field_is_what_the_layer_adds(tying: Any) -> None:
    for layer, n in (
        (Conv2d(2, 3, 3, (2, 1), 1, bias=tying, output_size=(4, 6)), (7, 6)),
        (Conv2d(2, 3, 2, 2, (0, 1), bias=tying, output_size=(4, 6)), (8, 10)),
        (ConvTranspose2d(2, 3, 2, 2, bias=tying, output_size=(4, 6)), (2, 3)),
    ):
        filled(layer)
        field = layer.bias_field((4, 6), input_size=n)
        assert field.shape == (3, 4, 6)
        nothing = layer(torch.zeros(1, 2, *n, dtype=torch.float64))[0]
        torch.testing.assert_close(nothing, field, rtol=0, atol=1e-14)
        assert tying == "none" or field.abs().max() > 0.01


@pytest.mark.parametrize("tying", ["none", "tied", "", "tap", "c + tap", "grid:3"])
def test_a_tying_that_follows_the_image_takes_any_size(tying: str) -> None:
    layer = filled(Conv2d(2, 3, 3, padding=1, bias=tying, output_size=(4, 6)))
    assert layer.output_size is None
    for size in ((4, 6), (9, 1)):
        nothing = layer(torch.zeros(2, *size, dtype=torch.float64))
        torch.testing.assert_close(nothing, layer.bias_field(size), rtol=0, atol=1e-14)


def test_input_size_settles_which_tap_field() -> None:
    layer = filled(Conv1d(1, 1, 3, 2, 1, bias="tap"))
    with pytest.raises(ShapeError, match=r"output_size=\(4,\): inputs of 7 to 8 on axis 0 .* input_size="):
        layer.bias_field(4)
    seven, eight = layer.bias_field(4, input_size=7), layer.bias_field(4, input_size=8)
    assert torch.equal(seven[:, :3], eight[:, :3])
    torch.testing.assert_close(eight[:, 3] - seven[:, 3], layer.bias[:, 2])
    with pytest.raises(ShapeError, match=r"input_size=\(6,\): gives an output of \(3,\), not \(4,\)"):
        layer.bias_field(4, input_size=6)
    up = filled(ConvTranspose2d(1, 1, (1, 3), 2, bias="tap"))
    with pytest.raises(ShapeError, match=r"output_size=\(4, 4\): no input gives it"):
        up.bias_field((4, 4))
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(up(x, output_size=(4, 6))[0], up.bias_field((4, 6), input_size=(2, 2)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Conv2d(1, 2, 3, bias="untied"), ShapeError, "output_size=None: the tying untied .* Lazy"),
        (lambda: Conv2d(1, 2, 3, bias="untied", output_size=(3,)), ShapeError, r"output_size=\(3,\): needs"),
        (lambda: Conv2d(1, 2, 3, bias="untied", output_size=(0, 3)), ShapeError, "must be at least 1"),
        (lambda: Conv2d(1, 2, 3, bias="h c"), TyingError, "write 'c h'"),
        (lambda: Conv1d(1, 2, 3, bias="c h", output_size=3), TyingError, "a 1D bias has the axes 'c l'"),
        (lambda: Conv2d(1, 2, 3, bias=LABELS, output_size=(4, 5)), ShapeError, r"labels=\(4, 6\): must have"),
        (lambda: Conv3d(1, 2, 3, activation="elu"), ValueError, "activation='elu': must be None or one of"),
        (lambda: Conv2d(1, 2, 3)(torch.zeros(1, 1, 2, 9, 9)), ShapeError, "Expected 3D .unbatched. or 4D"),
        (lambda: Bias(2, (3, 3), "tap"), TyingError, "belongs to a convolution's kernel"),
        (lambda: Bias(2, (3, 3))(torch.zeros(2, 3, 4)), ShapeError, r"\[2, 3, 4\]: must be \(2, 3, 3\)"),
        (lambda: Bias(2, (3, 3))(torch.zeros(3, 3, 3)), ShapeError, "needs 2 channels"),
        (lambda: Bias(2, ()), ShapeError, "needs one to three axes"),
    ],
)  # fmt: skip
def test_what_a_layer_cannot_be_or_take_is_refused(make: Any, error: type[ValueError], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_an_untied_layer_refuses_another_size_and_names_the_ways_out() -> None:
    layer = Conv2d(1, 2, 3, bias="untied", output_size=(4, 6))
    with pytest.raises(ShapeError, match=r"output of \(5, 6\), but .* \(4, 6\); resize_\(\(5, 6\)\)"):
        layer(torch.zeros(1, 1, 7, 8))
    with pytest.raises(ShapeError, match=r"output_size=\(5, 6\): this layer's bias is for \(4, 6\)"):
        layer.bias_field((5, 6))
    up = ConvTranspose2d(1, 1, 3, 2, bias="untied", output_size=(5, 5))
    with pytest.raises(ShapeError, match=r"gives an output of \(6, 5\)"):
        up(torch.zeros(1, 1, 2, 2), output_size=(6, 5))
    # One place must not be taken for all places.
    alone = Conv2d(1, 2, 3, bias="untied", output_size=1)
    with pytest.raises(ShapeError, match=r"output of \(2, 1\)"):
        alone(torch.zeros(1, 1, 4, 3))


@pytest.mark.parametrize("tying", [t for t in TYINGS if "tap" not in repr(t)], ids=repr)
def test_bias_alone_adds_its_field(tying: Any) -> None:
    layer = Bias(3, (4, 6), tying)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    assert torch.equal(layer(x), x)
    filled(layer)
    for batched in (x, x[0]):
        torch.testing.assert_close(layer(batched), batched + layer.bias_field((4, 6)), rtol=0, atol=1e-14)


def test_no_bias_decays_whatever_its_rank() -> None:
    model = nn.Sequential(
        Conv2d(1, 2, 3, bias="rank:2", output_size=(4, 6)),
        Conv2d(2, 2, 3, bias="c + h w", output_size=(2, 4)),
        nn.BatchNorm2d(2),
        Bias(2, (2, 4)),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1)),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    names = {p: n for n, p in model.named_parameters()}
    decayed, biases = convbias.param_groups(model, 0.1)
    assert (decayed["weight_decay"], biases["weight_decay"]) == (0.1, 0.0)
    assert [names[p] for p in biases["params"]] == [
        "0.bias", "0.bias_u", "0.bias_v", "1.bias", "1.bias_1", "2.bias", "3.bias", "4.bias", "6.bias"
    ]  # fmt: skip
    assert len(decayed["params"]) + len(biases["params"]) == len(names)
    torch.optim.AdamW([decayed, biases])
    shared = nn.Sequential(model[0], model[0])
    assert sum(len(group["params"]) for group in convbias.param_groups(shared, 0.1)) == 4


def test_abstract_layers_have_concrete_ones_only_below_them() -> None:
    for name in convbias.nn.__all__:
        kind = getattr(convbias.nn, name)
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind not in (Biased, ConvNd):
            assert kind.__doc__
            assert "forward" in dir(kind)
