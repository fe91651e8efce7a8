"""The parts add up to the output, and each is what its name says."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import convbias
from convbias import ShapeError, decompose
from convbias.nn.decompose import PARTS, Decomposition
from layer_cases import ALL, Case, over, plain


def whole(parts: Decomposition) -> torch.Tensor:
    return parts.data + parts.padding + parts.tied + parts.position


@over(ALL)
def test_the_parts_add_up_and_are_what_they_say(case: Case) -> None:
    layer, x = case.make(), case.input() + 1
    parts = decompose(layer, x)[""]
    field = layer.bias_field(case.layer.output_size, input_size=case.layer.size)
    total = layer.geometry().convolve(x, layer.weight, None, layer.groups) + field
    assert_close(parts.total, total)
    assert_close(whole(parts), total)
    assert_close(parts.tied + parts.position, field)
    assert_close(parts.position.flatten(1).mean(1), torch.zeros(case.layer.channels[1]).double())
    shares = parts.shares
    assert list(shares) == list(PARTS)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["tied"] == pytest.approx(0, abs=1e-12)
    # On channels that are constant the data are constant too, where the image goes on for ever.
    flat = x.mean((0, *range(2, x.dim())), keepdim=True).expand_as(x)
    even = decompose(layer, flat)[""]
    assert_close(even.padding, parts.padding)
    if not layer.transposed:
        assert_close(
            even.data,
            even.data.flatten(2)
            .mean(2)
            .reshape(even.data.shape[:2] + (1,) * layer.dims)
            .expand_as(even.data),
        )
    if layer.geometry().covers:
        assert parts.padding.abs().max() < 1e-12


def test_padding_is_what_the_missing_entries_would_have_added() -> None:
    layer, x = nn.Conv2d(3, 4, 3, padding=1).double(), torch.randn(5, 3, 6, 7).double() + 2
    mean = x.mean((0, 2, 3))
    ring = F.pad(torch.zeros(1, 1, 6, 7), (1, 1, 1, 1), value=1.0).double() * mean[:, None, None]
    assert_close(decompose(layer, x)[""].padding, -F.conv2d(ring, layer.weight)[0])


def test_a_transposed_layer_has_phases_and_no_padding_inside() -> None:
    layer, x = nn.ConvTranspose1d(2, 3, 4, stride=3).double(), torch.randn(4, 2, 9).double() + 1
    parts = decompose(layer, x)[""]
    assert_close(parts.total, layer(x))
    assert parts.padding[:, 1:-1].abs().max() < 1e-12
    assert parts.padding[:, [0, -1]].abs().amax(0).min() > 0.01


def test_a_planted_position_gets_its_share() -> None:
    layer = convbias.Conv2d(1, 1, 1, bias="untied", output_size=(8, 8)).double()
    x = torch.randn(64, 1, 8, 8).double()
    rows = torch.linspace(-1, 1, 8).double()[:, None].expand(8, 8)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.get_parameter("bias").copy_(5 + rows[None] * (x.var().sqrt() / rows.std(correction=0)))
    shares = decompose(layer, x)[""].shares
    assert shares["position"] == pytest.approx(0.5, abs=0.05)
    assert shares["data"] == pytest.approx(0.5, abs=0.05)
    assert shares["padding"] == 0
    assert "position 5" in str(decompose(layer, x)[""]) or "position 4" in str(decompose(layer, x)[""])


def test_a_network_is_taken_apart_layer_by_layer_and_left_as_it_was() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(),
        plain("untied").make(torch.float32),
    )
    net[4] = convbias.Conv2d(4, 2, 3, bias="untied", output_size=(6, 6), activation="relu")
    net.train()
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(3, 1, 8, 8)
    found = decompose(net, x)
    assert list(found) == ["0", "4"]
    assert_close(found["0"].total, net[0](x))
    assert_close(torch.relu(found["4"].total), net.eval()(x))
    assert_close(net.state_dict(), before)
    net.train()
    net[2].eval()
    decompose(net, {"input": x})
    assert [m.training for m in net] == [True, True, False, True, True]
    assert not net[0]._forward_hooks


def test_one_image_without_a_batch_and_a_dead_layer() -> None:
    layer, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(2, 5, 5)
    assert decompose(layer, x)[""].total.shape == (1, 3, 5, 5)
    with torch.no_grad():
        layer.weight.zero_()
    assert set(decompose(layer, x)[""].shares.values()) == {0.0}


@pytest.mark.parametrize(
    ("x", "raised", "said"),
    [
        (
            torch.randn(0, 3, 8, 8),
            ShapeError,
            r"input=\(0, 3, 8, 8\): is empty and has no mean; give one image",
        ),
        (
            torch.randn(2, 4, 8, 8),
            ShapeError,
            r"input=\(2, 4, 8, 8\): must be \(N, 3, \*space\), or without N",
        ),
        (torch.randn(3, 8), ShapeError, r"input=\(3, 8\): must be \(N, 3, \*space\), or without N"),
        (
            torch.ones(2, 3, 8, 8, dtype=torch.long),
            ShapeError,
            "input=torch.int64: must be floating-point numbers",
        ),
        (torch.full((2, 3, 8, 8), torch.nan), ValueError, r"input=nan, at \(0, 0, 0, 0\): must be finite"),
        (torch.full((2, 3, 8, 8), torch.inf), ValueError, r"input=inf, at \(0, 0, 0, 0\): must be finite"),
    ],
)
def test_inputs_that_cannot_be_taken_apart(x: torch.Tensor, raised: type[ValueError], said: str) -> None:
    layer = nn.Conv2d(3, 2, 3)
    with pytest.raises(raised, match=said):
        decompose(layer, x)
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks
    with pytest.raises(raised, match="layer '1', input="):
        decompose(nn.Sequential(nn.Identity(), layer), x)


def test_nothing_to_take_apart() -> None:
    with pytest.raises(ShapeError, match="model=Linear: runs no convolution"):
        decompose(nn.Linear(2, 2), torch.zeros(1, 2))
