"""Surgery: another tying for the convolutions of any network, and the way back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convbias
from convbias import Regions, SurgeryError, TyingError, retie, to_torch

FINER = [
    "tied",
    "c h",
    "c w",
    "untied",
    "c + h w",
    "c h + c w",
    "rank:2",
    "grid:3",
    "sym:flip_w",
    "c + tap",
    "tap",
]
COARSER = ["none", "", "h w"]


class Net(nn.Module):
    """Plain, strided, grouped, bias-free, transposed and shared convolutions, with state and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1, groups=2), nn.Dropout(0.5))
        self.plain = nn.Conv2d(4, 4, 1, bias=False)
        self.again = self.plain
        self.up = nn.ConvTranspose2d(4, 3, 2, 2)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.norm(self.stem(x)).relu())
        x = self.again(self.plain(x))
        return self.head(self.up(x).mean((-2, -1)))


@pytest.fixture
def net() -> Net:
    return Net().double().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 2, 8, 6, dtype=torch.float64)


@pytest.mark.parametrize("tying", [*FINER, *COARSER])
def test_retie_changes_every_convolution_of_a_copy(net: Net, x: Tensor, tying: str) -> None:
    before, generator, expected = copy.deepcopy(net.state_dict()), torch.get_rng_state(), net(x)
    retied = retie(net, tying, x)
    assert [row.name for row in retied.report] == ["stem", "body.0", "plain", "up"]
    for row in retied.report:
        layer = retied.model.get_submodule(row.name)
        assert isinstance(layer, convbias.nn.ConvNd)
        assert repr(layer.tying) == tying == row.after
        assert row.reason is None
        assert row.parameters_after == sum(p.numel() for n, p in layer.named_parameters() if n != "weight")
        if tying in FINER:
            assert row.residual == 0
    assert retied.model.get_submodule("again") is retied.model.get_submodule("plain")
    if tying in FINER:
        torch.testing.assert_close(retied.model(x), expected, rtol=0, atol=1e-14)
    else:
        assert max(row.residual for row in retied.report) > 1e-3
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert torch.equal(generator, torch.get_rng_state())
    assert type(net.stem) is nn.Conv2d


@pytest.mark.parametrize("tying", FINER)
def test_to_torch_is_the_same_function(net: Net, x: Tensor, tying: str) -> None:
    retied = retie(net, tying, x).model
    for p in retied.parameters():
        p.data.normal_()
    back = to_torch(retied, x)
    assert not any(isinstance(m, convbias.nn.ConvNd) for m in back.modules())
    assert back.get_submodule("again") is back.get_submodule("plain")
    torch.testing.assert_close(back(x), retied(x), rtol=1e-12, atol=1e-12)
    if tying == "tied":
        assert {type(back.get_submodule(n)) for n in ("stem", "plain")} == {nn.Conv2d}
        assert set(back.state_dict()) == {*net.state_dict(), "plain.bias", "again.bias"}


def test_a_coarser_tying_is_the_projection(net: Net, x: Tensor) -> None:
    untied = retie(net, "untied", x).model
    layer: Any = untied.get_submodule("stem")
    layer.bias.data.normal_()
    row, coarser = (lambda r: (r.report[0], r.model.get_submodule("stem")))(retie(untied, "c h", x))
    torch.testing.assert_close(coarser.bias, layer.bias.mean(-1, keepdim=True))
    assert row.residual == pytest.approx((layer.bias - coarser.bias).abs().max().item())
    assert str(row).startswith("stem: untied -> c h, 192 -> 32 parameters, residual ")


def test_rank_starts_where_it_can_learn(net: Net, x: Tensor) -> None:
    model = retie(net, "rank:2", x).model
    model(x).sum().backward()
    layer: Any = model.get_submodule("stem")
    assert layer.bias_v.grad.abs().max() > 0


def test_the_weights_and_flags_are_those_of_the_copy(net: Net, x: Tensor) -> None:
    net.stem.weight.requires_grad_(False)
    assert net.stem.bias is not None
    net.stem.bias.requires_grad_(False)
    net.train()
    model: Any = retie(net, "c h", x).model
    assert not model.stem.weight.requires_grad
    assert not model.stem.bias.requires_grad
    assert model.body[0].bias.requires_grad
    assert model.stem.training
    assert model.norm.num_batches_tracked == 0


def test_a_field_lies_as_the_outputs_do(net: Net, x: Tensor) -> None:
    for last in (False, True):
        form = torch.channels_last if last else torch.contiguous_format
        model: Any = retie(net.to(memory_format=form), "untied", x).model  # pyright: ignore[reportCallIssue]
        for layer in (model.stem, model.body[0]):
            assert layer.bias[None].is_contiguous(memory_format=form)


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("stem|up", ["stem", "up"]),
        ("body.*", ["body.0"]),
        (lambda name, layer: layer.bias is None, ["plain"]),
    ],
)
def test_where_chooses(net: Net, x: Tensor, where: Any, names: list[str]) -> None:
    retied = retie(net, "untied", x, where)
    assert [row.name for row in retied.report] == names
    ours = [n for n, m in retied.model.named_modules() if isinstance(m, convbias.nn.ConvNd)]
    assert ours == names


class Twice(nn.Module):
    """A layer called at two sizes, one never called, and one whose bias is read from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv1d(1, 1, 3)
        self.never = nn.Conv1d(1, 1, 3)
        self.borrowed = nn.Conv1d(1, 1, 3)
        self.looked_at = nn.Conv1d(1, 1, 3)
        self.special = Special(1, 1, 3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(1, 1, 3))
        self.hooked = nn.Conv1d(1, 1, 3)
        self.hooked.register_forward_hook(lambda *_: None)
        self.one, self.other = nn.Conv1d(1, 1, 3), nn.Conv1d(1, 1, 3)
        self.other.bias = self.one.bias
        self.lazy = nn.LazyConv1d(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shared(self.shared(x))
        y = F.conv1d(self.borrowed(y), self.borrowed.weight)
        y = self.special(self.normed(self.hooked(self.other(self.one(y)))))
        return self.lazy(self.looked_at(y.to(self.looked_at.weight.dtype)))


class Special(nn.Conv1d):
    """A user's own convolution."""


def test_what_cannot_be_converted_is_left_alone_with_its_reason() -> None:
    x, model = torch.randn(1, 1, 40), Twice()
    retied = retie(model, "untied", x)
    reasons = {row.name: row.reason or "" for row in retied.report}
    expected = {
        "shared": r"called at several output sizes, [(36,), (38,)]; take tap, grid or tied",
        "never": "the example inputs never call it",
        "borrowed": "used outside of it",
        "special": "Special is a subclass",
        "normed": "parametrised",
        "hooked": "forward hooks",
        "one": "shares its bias",
        "other": "shares its bias",
        "lazy": "lazy",
    }
    assert all(part in reasons[name] for name, part in expected.items()), reasons
    assert [name for name, reason in reasons.items() if not reason] == ["looked_at"]
    assert isinstance(retied.model.get_submodule("looked_at"), convbias.Conv1d)
    follows = retie(model, "c + tap", x)
    assert "shared" in [row.name for row in follows.report if row.reason is None]


@pytest.mark.parametrize("inputs", [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"x": x}])
def test_example_inputs_come_as_the_model_takes_them(net: Net, x: Tensor, inputs: Any) -> None:
    assert retie(net, "untied", inputs(x)).report[0].reason is None


def test_a_transposed_layer_called_with_an_output_size() -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(1, 2, 3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x, output_size=(10, 9))

    x, model = torch.randn(1, 1, 4, 4), Up()
    for tying in ("untied", "c + tap"):
        retied = retie(model, tying, x).model
        torch.testing.assert_close(retied(x), model(x))


@pytest.mark.parametrize("tying", ["untied", "c + tap", "c h", "tied"])
def test_a_transposed_layer_with_more_output_padding_than_stride(tying: str) -> None:
    """torch takes it where the dilation is larger, and retied layers and their fields do, too."""
    layer = nn.ConvTranspose2d(2, 3, 3, 1, padding=2, output_padding=(1, 2), dilation=3).double()
    x = torch.randn(2, 2, 5, 6).double()
    ours = retie(layer, tying, x).model
    assert isinstance(ours, convbias.ConvTranspose2d)
    expected = layer(x)
    torch.testing.assert_close(ours(x), expected)
    assert layer.bias is not None
    field = ours.bias_field(tuple(expected.shape[2:]), input_size=(5, 6))
    torch.testing.assert_close(field, layer.bias[:, None, None].expand(expected.shape[1:]))
    for model in (layer, ours):
        parts = convbias.decompose(model, x)[""]
        torch.testing.assert_close(parts.data + parts.padding + parts.tied + parts.position, expected)


def test_the_model_may_be_a_convolution_itself(x: Tensor) -> None:
    conv = nn.Conv2d(2, 3, 3).double()
    retied = retie(conv, Regions(torch.arange(24).reshape(6, 4) % 2), x)
    assert isinstance(retied.model, convbias.Conv2d)
    assert str(retied) == (
        "(model): tied -> Regions(shape=(6, 4), labels=2, digest='5a2492d2'), 3 -> 6 parameters, exact"
    )
    torch.testing.assert_close(retied.model(x), conv(x), rtol=0, atol=1e-14)
    assert type(to_torch(convbias.Conv2d(1, 1, 1))) is nn.Conv2d


def test_an_activation_goes_along(x: Tensor) -> None:
    for activation in convbias.nn.surgery.ACTIVATION_MODULES:
        for bias in (True, False, "c h"):
            layer = convbias.Conv2d(2, 3, 3, bias=bias, output_size=(6, 4), activation=activation).double()
            torch.testing.assert_close(to_torch(layer)(x), layer(x))
            torch.testing.assert_close(retie(layer, "untied", x).model(x), layer(x))


@pytest.mark.parametrize(
    ("tying", "where", "error", "message"),
    [
        ("h c", None, TyingError, "write 'c h'"),
        (
            "untied",
            "nowhere",
            SurgeryError,
            r"'nowhere': chooses none .* \['stem', 'body.0'",
        ),
        ("sym:d4", "stem", SurgeryError, "no layer could be converted: .* need h equal to w"),
        ("c l", None, SurgeryError, "a 2D bias has the axes"),
    ],
)
def test_what_cannot_be_done_is_refused(
    net: Net, x: Tensor, tying: str, where: str | None, error: type[ValueError], message: str
) -> None:
    with pytest.raises(error, match=message):
        retie(net, tying, x, where)


def test_a_tap_bias_needs_its_size_outside_of_its_layer() -> None:
    layer = convbias.Conv2d(1, 2, 3, padding=1, bias="tap")
    with pytest.raises(SurgeryError, match="no sizes are known; give example_inputs"):
        to_torch(layer)
