"""``convbias.fold``: what is folded by default, what a target or a word changes, and what is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convbias
from convbias.folding import LAWS, Folded
from convbias.folding.programs import exported
from convbias.nn.chained import Chained
from convbias.ops.activations import ACTIVATIONS
from convbias.verifying import randomised

C = 4
aten = torch.ops.aten


class Net(nn.Module):
    """Layers, and a function of them and the input."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.position = nn.Parameter(torch.randn(1, 17, C))
        self.register_buffer("map", torch.randn(C, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def conv(kernel: Any = 3, padding: Any = 1, inputs: int = C, outputs: int = C, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, **more)


def bn(channels: int = C) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels)


def fold(model: nn.Module, size: tuple[int, ...] = (2, C, 8, 8), **words: Any) -> Folded:
    """``model`` folded with random statistics, and found to be the same function here as well."""
    model = randomised(model).eval().double()
    for module in model.modules():
        if isinstance(module, convbias.Conv2d):
            nn.init.normal_(module.get_parameter("bias"))
    x = torch.randn(size, dtype=torch.float64)
    kept = copy.deepcopy(model.state_dict())
    folded = convbias.fold(model, x, **words)
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[name]), f"{name} of the input was changed"
    for images in (x, 3 * x.flip(-1), torch.zeros_like(x)):
        expected = model(images)
        assert (folded.model(images) - expected).abs().max() <= 1e-11 * max(1, expected.abs().max())
    return folded


def laws(folded: Folded) -> list[str]:
    return [row.law for row in folded.report.folded]


def tokens(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(x).flatten(2).transpose(1, 2) + net.position[:, 1:])


def class_token(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x).flatten(2).transpose(1, 2)
    return net.norm(torch.cat([net.position[:, :1].expand(x.shape[0], -1, -1), y], 1) + net.position)


def padded_by(norm: Any, y: Tensor) -> Tensor:
    """Padded with what the norm makes of zero."""
    value = norm.bias - norm.running_mean * norm.weight / torch.sqrt(norm.running_var + norm.eps)
    y = F.pad(norm(y), [1] * 4)
    for part in (y[:, :, :1], y[:, :, -1:], y[:, :, :, :1], y[:, :, :, -1:]):
        part[:] = value.view(1, -1, 1, 1)
    return y


# The network, the laws that apply by default (eager), and the operators left.
DEFAULT: dict[str, tuple[Callable[[], nn.Module], list[str], int]] = {
    "shifted ReLU": (
        lambda: nn.Sequential(conv(), nn.ReLU(), bn(), conv()),
        ["shifted ReLU"],
        3,
    ),
    "shifted ReLU6, pooled after": (
        lambda: nn.Sequential(conv(), nn.ReLU6(), bn(), nn.MaxPool2d(2), conv()),
        ["shifted ReLU"],
        4,
    ),
    "shifted clamp, pooled before": (
        lambda: nn.Sequential(conv(), nn.Hardtanh(-2, 0.5), nn.MaxPool2d(2), bn(), conv()),
        ["shifted ReLU"],
        4,
    ),
    "shifted ReLU, spelled out": (
        lambda: Net(
            lambda n, x: n.b(n.pool((n.a(x).relu() - n.norm.running_mean[:, None, None]) / 0.3 + 1)),
            **{"a": conv(), "b": conv(), "norm": bn(), "pool": nn.MaxPool2d(2)},
        ),
        ["shifted ReLU"],
        4,
    ),
    **{
        f"shifted ReLU, as {name}": (
            lambda run=run: Net(lambda n, x: n.b(n.norm(run(n.a(x)))), a=conv(), b=conv(), norm=bn()),
            ["shifted ReLU"],
            3,
        )
        for name, run in {
            "clamp_min": lambda y: y.clamp_min(0.5),
            "maximum": lambda y: torch.maximum(y, torch.tensor(0.0, dtype=y.dtype)),
            "maximum, turned round": lambda y: torch.maximum(torch.tensor(0.0, dtype=y.dtype), y),
            "max": lambda y: torch.max(y, torch.tensor(0.0, dtype=y.dtype)),
            "minimum": lambda y: torch.minimum(y, torch.tensor(1.0, dtype=y.dtype)),
            "clip": lambda y: y.clip(0, 1),
            "clip from below": lambda y: y.clip(min=0.5),
            "clamp from above": lambda y: y.clamp(max=1),
            "clamp_max": lambda y: y.clamp_max(1),
            "clamp of tensors": lambda y: y.clamp(
                *(torch.tensor(bound, dtype=y.dtype) for bound in (0.0, 1.0))
            ),
            "bounds of each channel": lambda y: y.clamp_min(
                torch.tensor([[[-0.3]], [[0.1]], [[0.0]], [[0.5]]], dtype=y.dtype)
            ),
            "threshold": lambda y: F.threshold(y, 0.5, 0.5),
        }.items()
    },
    "shifted ReLU, pooled with indices": (
        lambda: Net(
            lambda n, x: n.b(F.max_pool2d(n.norm(n.a(x).relu()), 2, return_indices=True)[0]),
            **{"a": conv(), "b": conv(), "norm": bn()},
        ),
        ["shifted ReLU"],
        4,
    ),
    "a threshold that jumps": (
        lambda: nn.Sequential(conv(), nn.Threshold(0.5, 0.0), bn(), conv()),
        [],
        4,
    ),
    "into linear": (
        lambda: nn.Sequential(nn.ReLU(), bn(), nn.Flatten(), nn.Linear(C * 64, 3)),
        ["into linear"],
        2,
    ),
    "a map into linear": (
        lambda: nn.Sequential(
            convbias.Conv2d(C, C, 3, padding=1, bias="untied", output_size=8),
            nn.Flatten(),
            nn.Linear(C * 64, 3),
        ),
        ["into linear"],
        2,
    ),
    "dropout": (lambda: nn.Sequential(conv(), nn.Dropout(), bn()), ["affine after"], 1),
    "depthwise branches": (
        lambda: Net(lambda n, x: n.a(x) + n.b(x) + n.n(x), a=conv(groups=C), b=conv(1, 0, groups=C), n=bn()),
        ["parallel branches"],
        1,
    ),
    "a step that pays in the sum alone": (
        lambda: Net(
            lambda n, x: n.a(x) + F.avg_pool2d(n.b(x), 3, 1, 1), a=conv(bias=False), b=conv(1, 0, bias=False)
        ),
        ["parallel branches"],
        1,
    ),
    "a normalised skip": (
        lambda: Net(lambda n, x: (x - n.map[:, :1, :1]) * 0.3 + n.conv(x), conv=conv()),
        ["parallel branches"],
        1,
    ),
    "a cropped branch": (
        lambda: Net(
            lambda n, x: n.a(x) + n.b(x[..., 1:-1]) + n.c(F.pad(x, (0, 0, -1, -1))),
            **{"a": conv(padding=0), "b": conv((3, 1), 0), "c": conv((1, 3), 0)},
        ),
        ["parallel branches"],
        1,
    ),
    "channels normalised one by one": (
        lambda: Net(
            lambda n, x: n.conv(torch.cat([(x[:, i : i + 1] - i) / 0.3 for i in range(C)], 1)),
            conv=conv(padding=0),
        ),
        ["picked channels"],
        1,
    ),
    "another order of channels": (
        lambda: Net(lambda n, x: n.conv(x[:, [2, 1, 0]]), conv=conv(inputs=3)),
        ["picked channels"],
        1,
    ),
    "half of the channels": (
        lambda: Net(lambda n, x: n.conv(x[:, :2]), conv=conv(inputs=2, outputs=16 * C)),
        [],
        1,
    ),
    "bottleneck": (
        lambda: nn.Sequential(conv(1, 0, C, 1), conv(3, 1, 1, 4 * C)),
        [],
        2,
    ),
    "a full map for a norm": (lambda: nn.Sequential(nn.ReLU(), bn(), conv(outputs=4 * C)), [], 3),
}


@pytest.mark.parametrize("case", DEFAULT)
def test_what_pays_is_folded(case: str) -> None:
    make, expected, left = DEFAULT[case]
    folded = fold(make())
    assert laws(folded) == expected
    assert folded.report.after.nodes == left
    if expected:
        assert folded.verdict
        assert folded.report.after.price < folded.report.before.price


@pytest.mark.parametrize("first", [nn.ReLU(True), nn.SiLU(True)])
def test_what_works_in_place_on_its_input(first: nn.Module) -> None:
    """The folded network computes the same, and leaves its input alone."""
    model = randomised(nn.Sequential(first, bn(), conv(padding=0))).eval()
    x = torch.randn(2, C, 8, 8)
    kept = x.clone()
    folded = convbias.fold(model, x)
    assert laws(folded) == ["affine before"]
    y = folded.model(x)
    assert torch.equal(x, kept)
    torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-5)


def add(net: Any, x: Tensor) -> Tensor:
    return net.conv(x) + x


def between_skips(net: Any, x: Tensor) -> Tensor:
    return net.conv(torch.cat([x, net.plane.expand(len(x), -1, -1, -1), x.relu()], 1))


def positions(net: Any, x: Tensor) -> Tensor:
    return net.conv(x).flatten(2).transpose(1, 2) + net.plane


def coordinates(net: Any, x: Tensor) -> Tensor:
    return net.conv(torch.cat([x, net.plane], 1))


def computed(net: Any, x: Tensor) -> Tensor:
    return kept(net, x)[0]


def kept(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    lines = torch.linspace(-1, 1, x.shape[2]), torch.linspace(-1, 1, x.shape[3])
    grid = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    return net.conv(torch.cat([x, grid.expand(len(x), -1, -1, -1)], 1)), grid


def sized(run: Callable[[Any, Tensor], Any], layer: nn.Module, *plane: int) -> nn.Module:
    model = Net(run, conv=layer)
    model.register_buffer("plane", torch.randn(1, *plane))
    return model


# Whether it pays in eager mode: where less is saved than a call of another operator costs, it does not.
PAYS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = {
    "a small coordinate map": (
        lambda: sized(coordinates, conv(inputs=10, outputs=8), 2, 16, 16),
        (1, 8, 16, 16),
        [],
    ),
    "one that many channels are joined to": (
        lambda: sized(coordinates, conv(inputs=34, outputs=32), 2, 32, 32),
        (1, 32, 32, 32),
        ["constant channels"],
    ),
    "a small one that every call computes": (
        lambda: Net(computed, conv=conv(inputs=10, outputs=8)),
        (1, 8, 16, 16),
        ["constant channels"],
    ),
    "one that the network gives as well": (
        lambda: Net(kept, conv=conv(inputs=10, outputs=8)),
        (1, 8, 16, 16),
        [],
    ),
    "a large one": (
        lambda: sized(coordinates, conv(inputs=10, outputs=8), 2, 128, 128),
        (1, 8, 128, 128),
        ["constant channels"],
    ),
    "few positions": (lambda: sized(positions, conv(2, 0, 3, 8, stride=2), 64, 8), (1, 3, 16, 16), []),
    "many": (
        lambda: sized(positions, conv(2, 0, 3, 64, stride=2), 4096, 64),
        (2, 3, 128, 128),
        ["token bias"],
    ),
    "an addition": (lambda: Net(add, conv=conv(groups=C)), (1, C, 8, 8), ["parallel branches"]),
    "a pool and a norm": (
        lambda: nn.Sequential(nn.ReLU(), nn.AvgPool2d(2), bn(64), nn.ReLU()),
        (1, 64, 56, 56),
        [],
    ),
    "a norm, a 1×1, a small padded convolution": (
        lambda: nn.Sequential(bn(3), conv(1, 0, 3, 8), conv(3, 1, 8, 16), nn.ReLU()),
        (1, 3, 16, 16),
        ["affine before"],
    ),
    "two convolutions that oneDNN would run": (
        lambda: nn.Sequential(conv(1, 0, 8, 8), conv(3, 1, 8, 8)),
        (1, 8, 64, 64),
        ["composition"],
    ),
    "and two that it would not": (
        lambda: nn.Sequential(conv(1, 0, 8, 8), conv(3, 1, 8, 8)),
        (1, 8, 16, 16),
        [],
    ),
    "two of three branches": (
        lambda: Net(
            lambda n, x: n.deep(x) + n.b(n.a(x)) + x,
            **{"deep": conv(3, 1, 64, 64, groups=64), "a": conv(1, 0, 64, 2), "b": conv(3, 1, 2, 64)},
        ),
        (1, 64, 56, 56),
        ["parallel branches"],
    ),
    "a large one after a norm and a 1×1": (
        lambda: nn.Sequential(bn(3), conv(1, 0, 3, 8), conv(3, 1, 8, 16), nn.ReLU()),
        (1, 3, 128, 128),
        ["affine before", "composition"],
    ),
}


@pytest.mark.parametrize("case", PAYS)
def test_what_pays_depends_on_the_size(case: str) -> None:
    make, size, expected = PAYS[case]
    assert laws(convbias.fold(randomised(make()).eval(), torch.randn(size))) == expected


def test_a_smaller_concat_moves_less() -> None:
    model = sized(between_skips, conv(inputs=18, outputs=8), 2, 64, 64).eval()
    (row,) = convbias.fold(model, torch.randn(1, 8, 64, 64), force="constant channels").report.folded
    places, field = 4 * 64 * 64, 4 * 64 * 64 * 3 * 8
    joined, read = (2 + 16 - 16) + (18 - 16), 18 - 16
    assert row.before.bytes - row.after.bytes + field == places * (joined + read) + 4 * 2 * 9 * 8


TOKENS: dict[str, tuple[Callable[[], nn.Module], list[str], int]] = {
    "tokens": (
        lambda: Net(tokens, conv=conv(2, 0, stride=2), norm=nn.LayerNorm(C)),
        ["token bias"],
        2,
    ),
    "tokens and a class token": (
        lambda: Net(class_token, conv=conv(2, 0, stride=2), norm=nn.LayerNorm(C)),
        ["token bias"],
        3,
    ),
}


@pytest.mark.parametrize("case", TOKENS)
def test_positions_of_tokens(case: str) -> None:
    make, expected, left = TOKENS[case]
    folded = fold(make(), force=expected)
    assert laws(folded) == expected
    assert folded.report.after.nodes == left


@pytest.mark.parametrize("free", [True, False])
def test_one_token_joined_twice(free: bool) -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        token = n.position[:, :1].expand(x.shape[0], -1, -1)
        return torch.cat([token, n.conv(x).flatten(2).mT, token], 1) + n.map.flatten(1).mT[:18]

    words: Any = {"dynamic_shapes": ({0: torch.export.Dim.AUTO},)} if free else {}
    folded = fold(Net(run, conv=conv(2, 0, stride=2)), force="all", **words)
    assert laws(folded) == ([] if free else ["token bias"])
    assert [row.reason for row in folded.report.refused] == ["expand is read more than once"] * free


def test_nothing_to_fold_is_the_model_itself() -> None:
    model = nn.Sequential(conv(), nn.ReLU()).eval()
    folded = convbias.fold(model, torch.randn(1, C, 8, 8))
    assert folded.model is model
    assert folded.report.folded == ()
    assert "0 folded" in str(folded)


# Zeros on one side of an image, for convolutions that cannot pad so themselves: the laws, the operators left.
ONE_SIDE = nn.ZeroPad2d((0, 1, 0, 1))
ZEROS: dict[str, tuple[Callable[[], nn.Module], list[str], int]] = {
    "alone": (lambda: nn.Sequential(ONE_SIDE, conv(3, 0, stride=2), nn.ReLU()), [], 3),
    "around other zeros": (lambda: nn.Sequential(ONE_SIDE, conv(3, 1, stride=2)), [], 2),
    "around a norm": (lambda: nn.Sequential(bn(), ONE_SIDE, conv(3, 0, stride=2)), ["affine before"], 2),
    "beside a norm": (
        lambda: nn.Sequential(ONE_SIDE, conv(3, 1), nn.Sigmoid(), conv(), bn()),
        ["affine after"],
        4,
    ),
    "of a convolution that pads its sides differently": (
        lambda: nn.Sequential(nn.ZeroPad2d(1), conv(2, "same")),
        ["constant padding"],
        2,
    ),
    "on both sides": (
        lambda: nn.Sequential(ONE_SIDE, nn.ZeroPad2d((1, 0, 1, 0)), conv(3, 0)),
        ["constant padding"],
        1,
    ),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("force", ["affine before", "all"])
@pytest.mark.parametrize("case", ZEROS)
def test_zeros_that_a_layer_cannot_pad_with_are_no_fold(case: str, force: Any) -> None:
    make, expected, left = ZEROS[case]
    folded = fold(make(), target="convbias", force=force)
    assert (laws(folded), folded.report.after.nodes) == (expected, left)
    assert (folded.report.before == folded.report.after) == (not expected)


def test_a_law_that_is_forbidden_serves_no_other() -> None:
    def make() -> nn.Module:
        layers = {"a": conv(), "b": conv(1, 0), "c": conv(1, 0), "norm": bn()}
        return Net(lambda n, x: n.a(x) + n.c(x) + F.avg_pool2d(n.b(n.norm(x)), 3, 1, 1), **layers)

    assert fold(make(), force="all").report.after.nodes == 1
    for law in ("affine before", "composition"):
        folded = fold(make(), force=[name for name in LAWS if name != law], forbid=law)
        assert folded.report.after.nodes == 4, folded.report


def test_constant_channels_are_not_picked() -> None:
    model = Net(lambda n, x: n.wide(torch.cat([x, torch.ones_like(x)], 1)), wide=conv(inputs=2 * C))
    folded = fold(model, force="picked channels", forbid="constant channels")
    assert (laws(folded), folded.report.refused) == ([], ())


def test_a_target_decides_where_a_map_pays() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.ReLU(), bn(), conv(outputs=4 * C))

    (refused,) = fold(make()).report.refused
    assert refused.law == "affine before"
    assert "it would cost +" in refused.reason
    # In a kernel of convbias's own it costs nothing, which small images do not get.
    (row,) = ours(make()).report.folded
    assert row.tyings == {"2": "tap"}
    assert "tap (0.6 KiB" in str(row)
    assert laws(fold(make(), target="convbias")) == []
    assert laws(fold(make(), force="all")) == laws(fold(make(), force=["affine before"])) == ["affine before"]
    assert laws(ours(make(), forbid="affine before")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"force": "magic"}, "force='magic': must be 'all' or one of 'affine after'"),
        ({"forbid": ["magic"]}, "forbid='magic': must be"),
        ({"force": "composition", "forbid": "composition"}, "force='composition': is also forbidden"),
        ({"target": "tpu"}, "target='tpu': must be one of eager, inductor, convbias"),
    ],
)
def test_words_that_mean_nothing(words: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        convbias.fold(nn.Sequential(conv()).eval(), torch.randn(1, C, 8, 8), **words)


def test_networks_that_cannot_be_traced() -> None:
    with pytest.raises(ValueError, match=r"in training mode.*call model.eval\(\)"):
        convbias.fold(nn.Sequential(conv()), torch.randn(1, C, 8, 8))
    with pytest.raises(ValueError, match=r"torch.export cannot trace it with inputs \[\(1, 5, 8, 8\)\]"):
        convbias.fold(nn.Sequential(conv()).eval(), torch.randn(1, 5, 8, 8))


class InTraining(nn.BatchNorm2d):
    """A BatchNorm left in training mode within a network in eval mode."""

    def train(self, mode: bool = True) -> Any:
        return super().train(True)


def zero_scale() -> nn.Module:
    norm = bn()
    model = randomised(nn.Sequential(conv(), nn.ReLU(), norm, conv()))
    with torch.no_grad():
        model[2].weight[1] = 0  # pyright: ignore
    return model


def negative_scale() -> nn.Module:
    model = randomised(nn.Sequential(conv(), nn.ReLU(), bn(), nn.MaxPool2d(2), conv()))
    with torch.no_grad():
        model[2].weight[1] = -1  # pyright: ignore
    return model


def shared(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) + net.conv(x.relu())


def tied_weights() -> nn.Module:
    first, second = conv(), conv()
    second.weight = first.weight
    return nn.Sequential(first, bn(), nn.ReLU(), second, bn())


REFUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "shared layer": (lambda: Net(shared, conv=conv(), norm=bn()), "affine after", "another call of it"),
    "tied weights": (tied_weights, "affine after", "its weight is shared with"),
    "training mode": (
        lambda: nn.Sequential(conv(), InTraining(C)),
        "affine after",
        "its statistics are the batch's",
    ),
    "a scale of the input": (
        lambda: Net(lambda n, x: n.conv(x) * x.mean((2, 3), keepdim=True), conv=conv()),
        "affine after",
        "depends on the input",
    ),
    "a weight too large": (
        lambda: Net(lambda n, x: n.conv(x) * 1e30 * 1e30, conv=conv()),
        "affine after",
        "would leave the range of torch.float32",
    ),
    "zero scale": (zero_scale, "shifted ReLU", "a scale of 0"),
    "negative scale": (negative_scale, "shifted ReLU", "turns the largest into another one"),
    "a threshold that jumps": (
        lambda: nn.Sequential(conv(), nn.Threshold(0.5, 0.0), bn(), conv()),
        "shifted ReLU",
        "it jumps",
    ),
    "a maximum without NaN": (
        lambda: Net(
            lambda n, x: n.b(n.norm(torch.fmax(n.a(x), torch.tensor(0.0)))), a=conv(), b=conv(), norm=bn()
        ),
        "shifted ReLU",
        "NaN",
    ),
    "a bound that differs from place to place": (
        lambda: Net(lambda n, x: n.b(n.norm(n.a(x).clamp(n.map))), a=conv(), b=conv(), norm=bn()),
        "shifted ReLU",
        "the bound differs from place to place",
    ),
    "a bound of the input": (
        lambda: Net(lambda n, x: n.b(n.norm(n.a(x).maximum(x))), a=conv(), b=conv(), norm=bn()),
        "shifted ReLU",
        "its bounds depend on the input",
    ),
    "a bound of more axes": (
        lambda: Net(
            lambda n, x: n.deep(torch.maximum(n.a(x), torch.zeros(1, 1, 1, 1, 1)) * 2)[0],
            a=conv(),
            deep=nn.Conv3d(2, 2, 1),
        ),
        "shifted ReLU",
        "larger",
    ),
    "ReLU read twice": (
        lambda: Net(lambda n, x: n.b(n.norm(y := n.a(x).relu())) + y, a=conv(), b=conv(), norm=bn()),
        "shifted ReLU",
        "is also used by",
    ),
    "over the batch": (
        lambda: Net(lambda n, x: n.conv(x[:1]) + n.map.expand(3, -1, -1, -1) * 1.0, conv=conv()),
        "affine after",
        "makes",
    ),
    "tokens mixed with the batch": (
        lambda: Net(
            lambda n, x: n.conv(x).reshape(1, -1, 8) + torch.cat([n.map, n.map]).reshape(64, 8), conv=conv()
        ),
        "token bias",
        "differs|layout|makes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_exact_is_refused_with_a_reason(case: str) -> None:
    make, law, said = REFUSED[case]
    model = make().eval()
    x = torch.randn(2, C, 8, 8)
    # Another law would take what this one refuses.
    other = "affine before" if law == "shifted ReLU" else ()
    forced = [name for name in LAWS if name != other]
    folded = convbias.fold(copy.deepcopy(model), x, force=forced, forbid=other)
    reasons = [row.reason for row in folded.report.refused if row.law == law]
    assert any(part in reason for reason in reasons for part in said.split("|")), folded.report
    torch.testing.assert_close(folded.model(x), model(x))


def test_numbers_that_are_none_are_said_to_be_none() -> None:
    for layer, name, place, said in (
        (0, "weight", 0, "its constants are not all finite"),
        (1, "running_var", 1, "the scale is no number (NaN)"),
    ):
        model = nn.Sequential(conv(), bn()).eval()
        getattr(model[layer], name).data[place] = torch.nan if layer == 0 else -1
        (refused,) = convbias.fold(model, torch.randn(1, C, 8, 8), force="all").report.refused
        assert said in refused.reason


def test_an_image_without_a_batch() -> None:
    model = nn.Sequential(conv(), nn.ReLU(), conv(1, 0)).eval()
    assert convbias.fold(model, torch.randn(C, 8, 8), force="all").model is model


# The numbers' type, the bias of the first filter, the shift before the convolution.
BENDS: dict[str, tuple[torch.dtype, float, float]] = {
    "of a small shift": (torch.float32, 1.0, 1e-4),
    "beside a large bias": (torch.float32, 1e6, 0.02),
    "beside a larger one": (torch.float32, 1e7, 0.2),
    "in bfloat16": (torch.bfloat16, 30.0, 0.1),
    "in float16": (torch.float16, 300.0, 0.05),
}


@pytest.mark.parametrize("case", BENDS)
def test_a_slight_bend_at_the_border_is_kept(case: str) -> None:
    dtype, large, by = BENDS[case]
    layer = conv()
    layer.get_parameter("bias").data = torch.tensor([large, *[0.0] * (C - 1)])
    model = Net(lambda n, x: n.conv(x + n.mean), conv=layer).eval().to(dtype)
    model.register_buffer("mean", torch.full((1, C, 1, 1), by, dtype=dtype))
    x = torch.randn(2, C, 8, 8).to(dtype)
    folded = convbias.fold(model, x, force="all")
    assert [row.tyings for row in folded.report.folded] == [{"conv": "tap"}], folded.report
    nothing = torch.zeros_like(x).double()
    expected = model.double()(nothing)[:, 1:]
    apart = (folded.model.double()(nothing)[:, 1:] - expected).abs().amax((0, 2, 3))
    assert bool((apart <= 4 * torch.finfo(dtype).eps * expected.abs().amax((0, 2, 3))).all()), apart


def test_what_cancels_leaves_no_bend() -> None:
    """A border of what a norm makes of nothing, computed by the network itself, in its own precision."""
    for seed in range(8):
        torch.manual_seed(seed)
        layers = conv(1, 0, C, 32, bias=False), conv(3, 0, 32, 32), bn(32)
        model = Net(
            lambda n, x: n.last(padded_by(n.norm, n.first(x))),
            first=layers[0],
            last=layers[1],
            norm=layers[2],
        )
        folded = convbias.fold(randomised(model, seed).eval(), torch.randn(1, C, 8, 8), force="all")
        assert folded.report.folded[-1].bias == "tied", folded.report


def test_what_others_read_is_not_written_over() -> None:
    folded = fold(
        Net(lambda n, x: (y := n.conv(n.norm(x))).relu() - y, norm=bn(), conv=conv(1, 0)), force="all"
    )
    assert laws(folded) == ["affine before"], folded.report


def test_nothing_is_kept_that_is_not_read() -> None:
    model = Net(lambda n, x: n.norm(n.conv(x.relu() + n.map)), conv=conv(), norm=bn()).eval()
    folded = convbias.fold(model, torch.randn(1, C, 8, 8), force="all")
    assert laws(folded) == ["affine after", "affine before"]
    assert set(folded.model.state_dict()) == {"conv.weight", "conv.bias"}


def test_the_folded_model_shares_nothing_and_is_frozen() -> None:
    model = nn.Sequential(conv(), bn(), nn.ReLU(), nn.Flatten(), nn.Linear(C * 64, 3)).eval()
    folded = convbias.fold(model, torch.randn(1, C, 8, 8)).model
    mine = {value.data_ptr() for value in model.state_dict().values()}
    assert not mine & {value.data_ptr() for value in folded.state_dict().values()}
    assert not any(parameter.requires_grad for parameter in folded.parameters())


REASONS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "a pool that leaves out its padding": (
        lambda: nn.Sequential(conv(), nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        "1",
        "it leaves its padding out of the count",
    ),
    "a pool whose last windows are smaller": (
        lambda: nn.Sequential(conv(), nn.AvgPool2d(3, 2, ceil_mode=True)),
        "1",
        "its last windows are smaller (ceil_mode)",
    ),
    "a pool that sets its divisor": (
        lambda: nn.Sequential(conv(), nn.AvgPool2d(2, divisor_override=3)),
        "1",
        "it sets the divisor",
    ),
    "a pool beside a convolution": (
        lambda: Net(
            lambda n, x: n.conv(x) + n.pool(x),
            conv=conv(),
            pool=nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        ),
        "pool",
        "it leaves its padding out of the count",
    ),
    "a group norm": (lambda: nn.Sequential(conv(), nn.GroupNorm(2, C)), "1", "each image's own"),
    "a norm without statistics": (
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(C, track_running_stats=False)),
        "1",
        "or keeps none",
    ),
    "a layer with its activation inside": (
        lambda: nn.Sequential(bn(), convbias.Conv2d(C, C, 3, padding=1, bias="tap", activation="relu")),
        "1",
        "make the activation a layer of its own",
    ),
    "tied weights": (tied_weights, "0", "shared with 3"),
    "a layer called twice": (
        lambda: Net(shared, conv=conv(), norm=bn()),
        "conv",
        "shared with another call of it",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_reasons_name_the_place_once(case: str) -> None:
    make, layer, said = REASONS[case]
    refused = convbias.fold(make().eval(), torch.randn(2, C, 8, 8)).report.refused
    assert [row.layer for row in refused if said in row.reason] == [layer], refused


def test_slices_that_are_taken_up_are_named() -> None:
    network = Net(lambda n, x: n.conv(n.norm(x)[:, :, 1:-1, 1:-1]), conv=conv(padding=0), norm=bn())
    folded = fold(network, force="all")
    assert laws(folded) == ["cropping", "cropping", "affine before"]
    assert [len(row.gone) for row in folded.report.folded] == [1, 1, 1]
    assert len({row.gone for row in folded.report.folded}) == 3


def test_a_plane_of_any_size_is_no_constant() -> None:
    planes = {
        "ones": lambda n, x: n.conv(torch.cat([x, torch.ones_like(x[:, :1])], 1)),
        "arange": lambda n, x: n.conv(
            torch.cat([x, torch.arange(x.shape[3]).expand(2, 1, x.shape[2], x.shape[3])], 1)
        ),
    }
    free = {2: torch.export.Dim("h", min=3, max=64), 3: torch.export.Dim("w", min=3, max=64)}
    for run in planes.values():
        model = Net(run, conv=conv(inputs=C + 1)).eval()
        folded = convbias.fold(model, torch.randn(2, C, 8, 9), dynamic_shapes=(free,), force="all")
        assert [row.law for row in folded.report.refused] == ["constant channels"]
        assert "is constant, but its size depends on the input" in folded.report.refused[0].reason


def test_a_weight_that_is_also_read_as_a_number() -> None:
    model = Net(lambda n, x: n.norm(n.conv(x)) * n.conv.weight.sum(), conv=conv(), norm=bn())
    assert laws(fold(model)) == ["affine after"] * 2


def test_sizes_and_batches_stay_dynamic() -> None:
    last: Any = torch.channels_last
    model = randomised(nn.Sequential(bn(), conv(), nn.ReLU(), conv(1, 0), bn())).eval().to(memory_format=last)  # pyright: ignore
    n, h, w = (torch.export.Dim(name, min=2, max=64) for name in "nhw")
    x = torch.randn(2, C, 48, 48).to(memory_format=last)
    folded = convbias.fold(model, x, dynamic_shapes=({0: n, 2: h, 3: w},), target="convbias")
    assert {"affine before", "affine after"} <= set(laws(folded))
    assert folded.verdict is not None
    assert len({tuple(case.sizes) for case in folded.verdict.cases}) >= 4
    for size in ((2, C, 5, 9), (7, C, 16, 3)):
        x = torch.randn(size)
        torch.testing.assert_close(folded.model(x), model(x), rtol=1e-4, atol=1e-4)


# Networks whose convolution pads its sides differently, and the size of its kernel where sizes are free.
UNEVEN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "the same size": (lambda: nn.Sequential(bn(), conv(4, "same")), 5),
    "the same size, dilated": (lambda: nn.Sequential(bn(), conv(2, "same", dilation=3)), 5),
    "after a 1×1": (lambda: nn.Sequential(conv(1, 0), conv(2, "same")), 3),
    "zeros around a norm": (lambda: nn.Sequential(bn(), nn.ZeroPad2d((0, 1, 0, 1)), conv(3, 0, stride=2)), 4),
    "a border": (lambda: nn.Sequential(nn.ConstantPad2d((0, 1, 0, 1), 0.5), conv(3, 0, stride=2)), 4),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", UNEVEN)
def test_sides_padded_differently_where_sizes_are_free(case: str) -> None:
    make, kernel = UNEVEN[case]
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    folded = fold(make(), dynamic_shapes=(free,), force="all")
    assert (folded.report.refused, folded.report.after.nodes) == ((), 1)
    (layer,) = (m for m in folded.model.modules() if isinstance(m, convbias.Conv2d))
    assert (repr(layer.tying), layer.kernel_size) == ("tap", (kernel, kernel))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", UNEVEN)
def test_the_report_tells_the_bias_that_is_written(case: str) -> None:
    folded = fold(UNEVEN[case][0](), force="all")
    (layer,) = (m for m in folded.model.modules() if isinstance(m, convbias.Conv2d))
    row = folded.report.folded[-1]
    assert [repr(layer.tying)] == [*row.tyings.values()] == ["untied"]
    assert row.numbers == layer.get_parameter("bias").numel()


class Several(nn.Module):
    """A network of any number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(), bn()

    def forward(self, *images: Tensor) -> Tensor:
        return self.conv(self.norm(sum(images[1:], images[0])))


@pytest.mark.parametrize("count", [1, 2])
def test_inputs_of_any_number(count: int) -> None:
    model, n = randomised(Several()).eval(), torch.export.Dim("n", min=1, max=9)
    inputs = tuple(torch.randn(2, C, 8, 8) for _ in range(count))
    free = ({0: n},) * count
    for words in (free, (free,), {"images": free}, None):
        folded = convbias.fold(model, inputs, dynamic_shapes=words, force="all")
        assert laws(folded) == ["affine before"]
        given = [x[: 1 if words else 2] for x in inputs]
        torch.testing.assert_close(folded.model(*given), model(*given))


def test_sizes_that_the_network_was_not_folded_for() -> None:
    model, x = nn.Sequential(conv(), bn()).eval(), torch.randn(2, C, 8, 8)
    h = torch.export.Dim("h", min=5, max=9)
    fixed, free = (
        convbias.fold(model, x),
        convbias.fold(model, x, dynamic_shapes=({0: torch.export.Dim("n"), 2: h},)),
    )
    for size in ((2, C, 8, 9), (C, 8, 8), (3, C, 8, 8)):
        with pytest.raises(ValueError, match=r"folded for \(2, 4, 8, 8\); name other sizes"):
            fixed.model(torch.randn(size))
    for size in ((2, C, 4, 8), (2, C, 10, 8), (2, C, 8, 7)):
        with pytest.raises(ValueError, match=r"folded for \(0 to any, 4, 5 to 9, 8\)"):
            free.model(torch.randn(size))
    for size in ((1, C, 5, 8), (7, C, 9, 8)):
        assert free.model(torch.randn(size)).shape == torch.Size(size)


def test_structures_of_outputs_stay() -> None:
    model = Net(lambda n, x: {"b": [n.norm(n.conv(x)), (x,)], "a": None}, conv=conv(), norm=bn()).eval()
    x = torch.randn(2, C, 8, 8)
    folded = convbias.fold(model, x)
    assert laws(folded) == ["affine after"]
    pickled = pickle.loads(pickle.dumps(folded.model))
    programs = [torch.export.export(network, (x,)) for network in (folded.model, pickled)]
    runs = (folded.model, pickled, *(program.module() for program in programs))
    for found in (folded.model(x=x), *(run(x) for run in runs)):
        torch.testing.assert_close(found, model(x))
        assert (type(found), type(found["b"]), type(found["b"][1])) == (dict, list, tuple)


@pytest.mark.parametrize("format", [torch.channels_last, torch.contiguous_format])
def test_every_layout_of_memory_is_taken(format: torch.memory_format) -> None:
    layers = conv(), bn(), nn.ReLU(), nn.Flatten(), nn.Linear(C * 64, 3), nn.Unflatten(1, (3, 1))
    model, x = randomised(nn.Sequential(*layers)).eval(), torch.randn(2, C, 8, 8)
    folded = convbias.fold(model, x)
    assert laws(folded) == ["affine after"]
    moved: Any = copy.deepcopy(folded.model)
    moved.to(memory_format=format)
    for network in (folded.model, moved, exported(folded.model, [x]).module()):
        torch.testing.assert_close(network(x.to(memory_format=format)), model(x))


DYNAMIC_BATCH: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a plane of ones": (
        lambda: Net(
            lambda n, x: n.conv(torch.cat([x, torch.ones_like(x[:, :1])], 1)), conv=conv(inputs=C + 1)
        ),
        "constant channels",
    ),
    "coordinates": (
        lambda: Net(
            lambda n, x: n.conv(torch.cat([x, n.map.expand(x.shape[0], -1, -1, -1)], 1)),
            conv=conv(inputs=2 * C),
        ),
        "constant channels",
    ),
    "tokens and a class token": (
        lambda: Net(class_token, conv=conv(2, 0, stride=2), norm=nn.LayerNorm(C)),
        "token bias",
    ),
    "a border written over": (
        lambda: Net(lambda n, x: n.conv(written_over(F.pad(x, (0, 0, 1, 0)))), conv=conv(padding=0)),
        "constant padding",
    ),
}


@pytest.mark.parametrize("case", DYNAMIC_BATCH)
def test_constants_beside_a_batch_of_any_size(case: str) -> None:
    make, law = DYNAMIC_BATCH[case]
    model = make().eval()
    n = torch.export.Dim("n", min=1, max=64)
    folded = convbias.fold(model, torch.randn(2, C, 8, 8), dynamic_shapes=({0: n},), force="all")
    assert laws(folded) == [law], folded.report
    for batch in (1, 2, 5):
        x = torch.randn(batch, C, 8, 8)
        torch.testing.assert_close(folded.model(x), model(x), rtol=1e-4, atol=1e-4)


def test_pixels_of_whole_numbers() -> None:
    model = nn.Sequential(conv(3, 0, 3), nn.ReLU())
    net = Net(lambda n, x: n.inner((x.float() / 255 - 0.45) / 0.22), inner=model).eval()
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    folded = convbias.fold(net, x)
    assert laws(folded) == ["affine before"] * 3
    torch.testing.assert_close(folded.model(x), net(x), rtol=1e-4, atol=1e-4)


def test_the_folded_model_is_an_ordinary_module() -> None:
    model = randomised(nn.Sequential(conv(), bn(), nn.ReLU(), bn(), conv())).eval()
    x = torch.randn(2, C, 8, 8)
    folded = convbias.fold(model, x, target="convbias")
    assert {"0.weight", "0.bias", "4.weight", "4.bias"} <= set(folded.model.state_dict())
    again = copy.deepcopy(folded.model)
    again.load_state_dict(folded.model.state_dict())
    torch.testing.assert_close(again(x), folded.model(x))
    program = torch.export.export(folded.model, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), folded.model(x))
    expected = folded.model(x)
    F.mse_loss(expected, torch.zeros_like(expected))


def test_the_laws_have_the_names_that_reports_use() -> None:
    assert list(LAWS) == [law.name for law in LAWS.values()]
    report = fold(nn.Sequential(conv(), bn())).report.to_dict()
    assert report["folded"][0]["law"] in LAWS
    assert report["before"]["nodes"] == 2


class Counting(nn.Module):
    """What it returns depends on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(), bn()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.norm(self.conv(x)) + self.calls


def in_bfloat16(net: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net.norm(net.conv(x))


# The network, what is added to its inputs, the laws that apply, and what is said.
UNLIKE: dict[str, tuple[Callable[[], nn.Module], float, list[str], str]] = {
    "a state": (Counting, 0, [], "it gives another result for the same input"),
    "random numbers": (
        lambda: Net(lambda n, x: n.norm(n.conv(x)) + torch.randn(1, C, 1, 1), conv=conv(), norm=bn()),
        0,
        ["affine after"],
        "",
    ),
    "dropout that is left on": (
        lambda: Net(lambda n, x: n.norm(n.conv(x)) + F.dropout(x), conv=conv(), norm=bn()),
        0,
        ["affine after"],
        "",
    ),
    "autocast": (lambda: Net(in_bfloat16, conv=conv(), norm=bn()), 0, ["affine after"], ""),
    "constants that cancel": (
        lambda: Net(lambda n, x: n.conv(x - 1e5), conv=conv(padding=0)),
        1e5,
        [],
        "constants cancel, and rounding outweighs what is left; the fold was undone",
    ),
    "a cast that does nothing, but in float64": (
        lambda: Net(lambda n, x: n.norm(n.conv(x).float()).float(), conv=conv(), norm=bn()),
        0,
        ["affine after"],
        "",
    ),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_what_disagrees_for_other_reasons_is_no_bug(case: str) -> None:
    make, level, expected, said = UNLIKE[case]
    model = randomised(make()).eval()
    folded = convbias.fold(model, level + torch.randn(2, C, 8, 8), force="all")
    assert laws(folded) == expected
    assert any(said in row.reason for row in folded.report.refused) == bool(said)
    assert not any("a bug" in row.reason for row in folded.report.refused)


def test_sizes_that_the_network_pins_are_known() -> None:
    free = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    run = {
        "affine after": lambda n, x: n.conv(x) + n.map,
        "affine before": lambda n, x: n.conv(x.relu() + n.map),
        "constant channels": lambda n, x: n.wide(torch.cat([x, n.map.expand(x.shape[0], -1, -1, -1)], 1)),
    }
    for law, forward in run.items():
        model = Net(forward, conv=conv(), wide=conv(inputs=2 * C)).eval()
        x = torch.randn(2, C, 8, 8)
        folded = convbias.fold(model, x, dynamic_shapes=(free,), force="all")
        assert law in laws(folded), folded.report
        assert "untied" in folded.report.folded[-1].bias
        torch.testing.assert_close(folded.model(x[:1]), model(x[:1]), rtol=1e-4, atol=1e-4)


def test_only_the_fold_that_disagrees_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    from convbias.folding import driver, laws

    true = laws.before
    monkeypatch.setattr(driver, "disagreement", lambda network, site: 0.0)
    monkeypatch.setattr(laws, "before", lambda conv, scale, shift, size: true(conv, scale, None, size))
    model = randomised(nn.Sequential(conv(), bn(), nn.ReLU(), bn(), conv(), bn())).eval()
    forced = ["affine after", "affine before"]
    folded = convbias.fold(model, torch.randn(1, C, 8, 8), force=forced, forbid="shifted ReLU")
    assert folded.verdict
    assert [fold.law for fold in folded.report.folded] == ["affine after"] * 2
    (bug,) = [row for row in folded.report.refused if "a bug in convbias" in row.reason]
    assert (bug.law, bug.layer) == ("affine before", "4")
    assert "not the same function" in bug.reason


WHOLE: dict[str, tuple[Callable[[Any, Tensor], Tensor], set[str]]] = {
    "divided": (lambda n, x: n.conv(x / 255), {"affine before"}),
    "normalised": (lambda n, x: n.conv((x / 255 - 0.5) * 2), {"affine before"}),
    "halved": (lambda n, x: n.conv(x * 0.5), {"affine before"}),
    "wrapped around first": (lambda n, x: n.conv((x + 200) / 255), {"affine before"}),
    "not before a convolution": (lambda n, x: n.norm(n.conv((x / 255).relu())), {"affine after"}),
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("case", WHOLE)
def test_arithmetic_on_whole_numbers(case: str, dtype: torch.dtype) -> None:
    run, expected = WHOLE[case]
    model = randomised(Net(run, conv=conv(), norm=bn())).eval()
    x = torch.randint(0, 256, (2, C, 8, 8)).to(dtype)
    folded = convbias.fold(model, x, force="all")
    assert set(laws(folded)) == expected, folded.report
    torch.testing.assert_close(folded.model(x), model(x))
    casts = [node for node in folded.model.graph.nodes if "to_copy" in str(node.target)]  # pyright: ignore
    assert len(casts) == (case != "not before a convolution")


# What is done with bytes before they are cast, and the laws that take it up, but for the division.
MOVED: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "picked": (lambda x: x[:, [2, 1, 0]].float() / 255, ["picked channels"]),
    "picked, cast by the division": (lambda x: x[:, [2, 1, 0]] / 255, ["picked channels"]),
    "turned round": (lambda x: x.flip(1).float() / 255, ["picked channels"]),
    "padded": (lambda x: F.pad(x, (1, 1, 1, 1)).float() / 255, ["constant padding"]),
    "padded with white": (lambda x: F.pad(x, (1, 1, 1, 1), value=255).float() / 255, ["constant padding"]),
    "cropped": (lambda x: x[:, :, 2:-2, 2:-2].float() / 255, ["cropping"] * 2),
    "cropped and turned round": (
        lambda x: x[:, :, 2:].flip(1).float() / 255,
        ["cropping", "picked channels"],
    ),
    "padded on one side": (lambda x: F.pad(x, (0, 1, 0, 1)).float() / 255, []),
    "padded with a fraction": (lambda x: F.pad(x, (1, 1, 1, 1), value=0.5).float() / 255, []),
    "added up": (lambda x: torch.cat([x[:, :1] + 200, x[:, 1:]], 1).float() / 255, []),
}


@pytest.mark.parametrize("case", MOVED)
def test_what_is_done_with_bytes(case: str) -> None:
    run, expected = MOVED[case]
    network = Net(lambda n, x: n.conv(run(x)), conv=conv(padding=0, inputs=3)).eval()
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    folded = convbias.fold(network, x, force="all")
    assert sorted(laws(folded)) == sorted(["affine before", *expected])
    assert len(folded.report.refused) == (not expected)
    torch.testing.assert_close(folded.model(x), network(x))
    assert folded.report.after.nodes == (2 if expected else folded.report.before.nodes - 1)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda x: x[:, :, 2 : x.shape[2] - 1], ["cropping"]),
        (lambda x: x.narrow(2, 1, x.shape[2] - 2), ["cropping"]),
        (lambda x: x[:, :, : x.shape[2] // 2], []),
        (lambda x: x[:, :, x.shape[2] - 5 :], []),
        (lambda x: F.pad(x, (0, 0, 0, -(x.shape[2] % 2))), []),
    ],
)
def test_crops_of_any_size(run: Callable[[Tensor], Tensor], expected: list[str]) -> None:
    free = {2: torch.export.Dim.AUTO}
    network = Net(lambda n, x: n.conv(run(x)), conv=conv(padding=0))
    folded = fold(network, (2, C, 12, 12), dynamic_shapes=(free,), force="all")
    assert laws(folded) == expected
    said = [row.reason for row in folded.report.refused]
    assert all("depends on the input" in reason for reason in said)
    assert bool(said) == (not expected)


def written_over(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, :1] = 1
    return y


def border_at(x: Tensor, row: Any, column: Any) -> Tensor:
    """Ones around an image, the last of them written at these places."""
    y = F.pad(x, (1, 1, 1, 1)).clone()
    y[:, :, 0] = y[:, :, row] = y[..., 0] = y[..., column] = 1
    return y


# What is done with an image of 8×10 before a convolution, and the laws that apply where sizes are free.
AT_ANY_SIZE: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "rolled by the example's height": (lambda x: x.roll(8, 2), []),
    "by its batch": (lambda x: x.roll(2, 0), []),
    "by what is the height where it is even": (lambda x: x.roll(x.shape[2] // 2 * 2, 2), []),
    "by what two sizes differ": (lambda x: x.roll(x.shape[2] - x.shape[3] + 2, 2), []),
    "by the height": (lambda x: x.roll(x.shape[2], 2), ["picked channels"]),
    "shuffled in as many groups as there are rows": (
        lambda x: x.view(len(x), x.shape[2] // 4, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
        [],
    ),
    "shuffled in two groups": (
        lambda x: x.view(-1, 2, 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
        ["picked channels"],
    ),
    "cut and joined again": (lambda x: torch.cat([x[:, :, :3], x[:, :, 3:]], 2), ["picked channels"]),
    "a border at the example's end": (lambda x: border_at(x, 9, 11), []),
    "a border at the end, by its size": (
        lambda x: border_at(x, x.shape[2] + 1, x.shape[3] + 1),
        ["constant padding"],
    ),
    "a border at the end": (lambda x: border_at(x, -1, -1), ["constant padding"]),
}


@pytest.mark.parametrize("case", AT_ANY_SIZE)
def test_what_holds_at_the_example_s_size_alone(case: str) -> None:
    run, expected = AT_ANY_SIZE[case]
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    network = Net(lambda n, x: n.conv(run(x)), conv=conv(padding=0))
    folded = fold(network, (2, C, 8, 10), dynamic_shapes=(free,), force="all")
    assert laws(folded) == expected
    said = [row.reason for row in folded.report.refused]
    assert said == ([] if expected else ["it holds at the example's size, and not at others"])


@pytest.mark.parametrize(
    ("by", "sizes", "expected"),
    [
        (28, {2: torch.export.Dim.AUTO}, []),
        (56, {2: torch.export.Dim.AUTO}, []),
        (0, {2: torch.export.Dim.AUTO}, ["picked channels"]),
        (28, {2: 14 * torch.export.Dim("h")}, []),
        (28, {2: torch.export.Dim("h", min=27, max=29)}, []),
    ],
)
def test_what_holds_is_tried_at_sizes_that_the_network_takes(
    by: int, sizes: Any, expected: list[str]
) -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        if sizes[2] is torch.export.Dim.AUTO:
            torch._check(x.shape[2] % 14 == 0)
        return n.conv(x.roll(by or x.shape[2] // 14 * 14, 2))

    folded = fold(Net(run, conv=conv(14, 0)), (1, C, 28, 14), dynamic_shapes=(sizes,), force="all")
    assert laws(folded) == expected, folded.report
    assert "a bug" not in str(folded.report)


def test_one_pass_over_bytes_for_another_is_no_gain() -> None:
    model, x = Net(lambda n, x: n.conv(x / 255), conv=conv()).eval(), torch.zeros(1, C, 8, 8).byte()
    assert laws(convbias.fold(model, x)) == []
    both = Net(lambda n, x: n.conv(x / 255 * 0.5), conv=conv()).eval()
    assert laws(convbias.fold(both, x)) == ["affine before"]


@pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")
def test_the_folded_model_changes_its_mode_and_is_pickled() -> None:
    model, x = randomised(nn.Sequential(bn(), conv(), bn())).eval(), torch.randn(1, C, 8, 8)
    folded = convbias.fold(model, x, force="all")
    assert not folded.model.training
    outer = nn.Sequential(folded.model, nn.ReLU())
    expected = folded.model(x)
    assert torch.equal(outer.train()(x), expected.relu())
    assert torch.equal(outer.eval()(x), expected.relu())
    assert not folded.model.training
    for again in (copy.deepcopy(folded.model), pickle.loads(pickle.dumps(folded.model))):
        assert torch.equal(again.eval()(x), expected)


def test_complex_convolutions_and_infinite_paddings_are_refused() -> None:
    layers = [conv(1, 0, dtype=torch.complex64), conv(dtype=torch.complex64)]
    folded = convbias.fold(
        nn.Sequential(*layers).eval(), torch.randn(1, C, 8, 8, dtype=torch.complex64), force="all"
    )
    assert laws(folded) == []
    assert [row.reason for row in folded.report.refused] == ["it computes in complex numbers"] * 2
    infinite = Net(lambda n, x: n.conv(F.pad(x, [1] * 4, value=float("-inf"))), conv=conv(padding=0)).eval()
    folded = convbias.fold(infinite, torch.randn(1, C, 8, 8))
    assert [row.reason for row in folded.report.refused] == ["its constants are not all finite"]


def test_one_tensor_given_twice() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = bn(), conv()

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.conv(self.norm(x)) - y

    model, x = randomised(Two()).eval(), torch.randn(1, C, 8, 8)
    folded = convbias.fold(model, (x, x), force="all")
    assert laws(folded) == ["affine before"], folded.report
    torch.testing.assert_close(folded.model(x, 2 * x), model(x, 2 * x))


WRONG_INPUTS: dict[str, tuple[Any, str]] = {
    "a number": ([3], r"example_inputs\[0\]=3: must be a tensor"),
    "by name": ({"x": torch.zeros(1, C, 8, 8)}, "must be a tensor, or a sequence of tensors"),
    "none": (None, "example_inputs=None: must be a tensor"),
    "nothing": ([], r"example_inputs=\[\]: must be a tensor"),
    "more than tensors": ((torch.zeros(1, C, 8, 8), 2), r"example_inputs\[1\]=2: must be a tensor"),
    "no images": (torch.zeros(0, C, 8, 8), r"example_inputs\[0\]: is empty, \(0, 4, 8, 8\)"),
}


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_inputs_that_are_no_tensors(case: str) -> None:
    given, told = WRONG_INPUTS[case]
    with pytest.raises(ValueError, match=told):
        convbias.fold(nn.Sequential(bn(), conv()).eval(), given)


def test_what_torch_says_of_a_size_that_is_not_free() -> None:
    model = Net(lambda n, x: n.conv(x) if x.shape[0] > 3 else n.conv(x) + 1, conv=conv()).eval()
    with pytest.raises(ValueError, match=r"(?s)cannot trace it .*Constraints violated .*Not all values of n"):
        convbias.fold(model, torch.randn(2, C, 8, 8), dynamic_shapes=({0: torch.export.Dim("n", max=64)},))
    with pytest.raises(ValueError, match="force=None: must be the name of a law"):
        convbias.fold(model, torch.randn(2, C, 8, 8), force=None)  # pyright: ignore


def test_a_factor_behind_a_change_of_layout() -> None:
    def scaled(n: Any, x: Tensor) -> Tensor:
        return n.conv(x).permute(0, 2, 3, 1) * n.position[0, 0] + n.position[:, 1]

    assert laws(fold(Net(scaled, conv=conv()), force="all")) == ["token bias"] * 2

    def uneven(n: Any, x: Tensor) -> Tensor:
        return n.conv(x).flatten(2) * n.map[0].flatten()

    folded = fold(Net(uneven, conv=conv()), force="all")
    assert [row.reason for row in folded.report.refused] == ["the scale differs from place to place"]


def test_a_size_that_is_read_is_no_second_use() -> None:
    model = Net(lambda n, x: n.conv(x).flatten(2).transpose(1, 2) + n.position[:, :1], conv=conv()).eval()
    h = torch.export.Dim("h", min=2, max=64)
    folded = convbias.fold(model, torch.randn(2, C, 8, 8), dynamic_shapes={"x": {2: h}}, force="all")
    assert [row.reason for row in folded.report.refused] == ["the layout depends on the size of the input"]


def layers_of(folded: Folded) -> dict[str, str | None]:
    """The activation of every layer of convbias's in a folded network, by its name."""
    modules = folded.model.named_modules()
    return {name: layer.activation for name, layer in modules if isinstance(layer, convbias.Conv2d)}


def ours(model: nn.Module, **words: Any) -> Folded:
    """``model`` folded for images large enough for convbias's kernels; the same function here too."""
    last: Any = torch.channels_last
    model = randomised(model).eval().to(memory_format=last)  # pyright: ignore
    x = torch.randn(2, C, 48, 46).to(memory_format=last)
    folded = convbias.fold(model, x, **{"target": "convbias", **words})
    assert not [row for row in folded.report.refused if "a bug" in row.reason], folded.report
    with torch.no_grad():
        torch.testing.assert_close(folded.model(x), model(x), rtol=1e-4, atol=1e-4)
    return folded


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_for_our_kernels_every_convolution_is_a_layer_with_its_activation(name: str) -> None:
    def two() -> nn.Module:
        return Net(lambda n, x: n.norm(n.b(ACTIVATIONS[name](n.a(x)))), a=conv(), b=conv(1), norm=bn())

    assert layers_of(ours(two())) == {"a": name, "b": None}
    assert layers_of(ours(two(), target="eager")) == {}


# Networks with a sum, and how many of their sums are taken into a layer.
SUMS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "a block": (lambda n, x: F.relu(n.norm(n.b(F.relu(n.a(x)))) + x), 1),
    "the other way round": (lambda n, x: F.relu(x + n.norm(n.b(F.relu(n.a(x))))), 1),
    "two convolutions": (lambda n, x: F.relu(n.norm(n.b(F.relu(x))) + n.a(x.tanh())), 1),
    "no activation": (lambda n, x: n.norm(n.b(F.relu(n.a(x)))) + x, 1),
    "itself": (lambda n, x: (y := n.norm(n.b(F.relu(n.a(x))))) + y, 0),
    "read again": (lambda n, x: (y := n.norm(n.b(F.relu(n.a(x))))) + x * y.mean(), 0),
    "a factor": (lambda n, x: torch.add(n.norm(n.b(F.relu(n.a(x)))), x, alpha=2), 0),
    "a mean for each channel": (lambda n, x: n.norm(n.b(F.relu(n.a(x)))) + x.mean((2, 3), keepdim=True), 0),
    "a number": (lambda n, x: F.relu(n.norm(n.b(F.relu(n.a(x))))) + 2.0, 0),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_are_taken_into_layers(name: str) -> None:
    run, sums = SUMS[name]
    folded: Any = ours(Net(run, a=conv(), b=conv(1, 0), norm=bn()))
    turns = [turn for part in folded.model.modules() if isinstance(part, Chained) for turn in part.turns]
    called = {str(node.target) for node in folded.model.graph.nodes if node.op == "call_module"}
    layers = {name for name, part in folded.model.named_modules() if isinstance(part, convbias.Conv2d)}
    alone = [node for node in folded.model.graph.nodes if str(node.target) in called & layers]
    found = sum(turn.residual is not None for turn in turns) + sum(len(node.args) == 2 for node in alone)
    assert found == sums, folded.model.code


def test_what_our_kernels_are_no_faster_for_stays_torchs() -> None:
    def kinds(form: Any, size: int, **words: Any) -> list[bool]:
        made = [conv(3, 1, 32, 32, **words), bn(32), nn.ReLU(), conv(1, 0, 32, 32)]
        model: Any = randomised(nn.Sequential(*made)).eval().to(memory_format=form)  # pyright: ignore
        x = torch.randn(1, 32, size, size).to(memory_format=form)
        found = convbias.fold(model, x, target="convbias").model.modules()
        return [isinstance(m, convbias.Conv2d) for m in found if isinstance(m, (nn.Conv2d, convbias.Conv2d))]

    assert kinds(torch.channels_last, 32) == [True, True]
    # Winograd alone is worth turning the images round.
    assert kinds(torch.contiguous_format, 32) == [True]
    assert not any(kinds(torch.contiguous_format, 32, groups=8))
    assert not any(kinds(torch.channels_last, 8))


@pytest.mark.parametrize("size", [8, 16])
def test_a_heavy_convolution_of_few_numbers_stays_torchs(size: int) -> None:
    model = nn.Sequential(conv(3, 1, 96, 96), bn(96)).to(memory_format=torch.channels_last).eval()  # pyright: ignore
    x = torch.randn(1, 96, size, size).to(memory_format=torch.channels_last)
    (layer,) = convbias.fold(model, x, target="convbias").model.children()
    assert isinstance(layer, convbias.Conv2d) == (size == 16)


def twice(n: Any, x: Tensor) -> Tensor:
    z = n.a(x)
    return torch.cat([n.norm(n.b(F.relu(z))), z], 1)


def called_twice(n: Any, x: Tensor) -> Tensor:
    return n.norm(n.b(F.relu(n.a(F.relu(n.a(x))))))


def steep(n: Any, x: Tensor) -> Tensor:
    return n.norm(n.b(F.leaky_relu(n.a(x), 0.2)))


def uneven(n: Any, x: Tensor) -> Tensor:
    return n.norm(n.b(F.relu(n.a(F.pad(x, (0, 1, 0, 1))))))


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (twice, {"a": None, "b": None}),
        (called_twice, {"b": None}),
        (steep, {"a": None, "b": None}),
        (uneven, {"a": "relu", "b": None}),
    ],
)
def test_what_stays_outside_of_a_layer(
    run: Callable[[Any, Tensor], Tensor], expected: dict[str, str | None]
) -> None:
    network = Net(run, a=conv(), b=conv(1, 0), norm=bn())
    assert layers_of(ours(network, forbid="constant padding")) == expected


# Networks to train, and whether their sum is written onto a convolution's output.
TRAINED: dict[str, tuple[Callable[[Any, Tensor], Tensor], bool]] = {
    "an activation plus another value": (
        lambda n, x: F.max_pool2d(x, 3, 1, 1) + F.relu(n.norm(n.a(x))),
        False,
    ),
    "an activation plus itself": (lambda n, x: (y := n.norm(n.a(x))).sigmoid_() + y, False),
    "a convolution plus another value": (lambda n, x: F.max_pool2d(x, 3, 1, 1) + n.norm(n.a(x)), True),
}


@pytest.mark.parametrize("target", ["eager", "convbias"])
@pytest.mark.parametrize("case", TRAINED)
def test_the_folded_model_can_be_trained(case: str, target: str) -> None:
    run, written_over = TRAINED[case]
    model = randomised(Net(run, a=conv(), norm=bn())).eval()
    x = torch.randn(2, C, 48, 46).to(memory_format=torch.channels_last)
    folded: Any = convbias.fold(model, x, target=target).model.requires_grad_(True)
    sums = {node.target for node in folded.graph.nodes} & {aten.add.Tensor, aten.add_.Tensor}
    if written_over:
        assert sums == ({aten.add_.Tensor} if target == "eager" else set())
    else:
        assert sums == {aten.add.Tensor}
    x.requires_grad_(True)
    gradients = [torch.autograd.grad(network(x).square().sum(), x)[0] for network in (folded, model)]
    torch.testing.assert_close(*gradients)


def test_winograd_counts() -> None:
    x = torch.randn(1, 64, 56, 56)
    network = nn.Sequential(conv(3, 1, 64, 64), conv(1, 0, 64, 64)).eval()
    eager, ours = (convbias.fold(network, x, target=name).report for name in ("eager", "convbias"))
    assert ours.before.macs == eager.before.macs
    assert ours.before.price < 0.7 * eager.before.price


@pytest.mark.parametrize("target", ["eager", "convbias"])
def test_weights_lie_as_the_network_s_did(target: str) -> None:
    last = torch.channels_last
    network = randomised(nn.Sequential(bn(8), conv(3, 1, 8, 16), nn.ReLU(), conv(3, 1, 16, 8), bn(8))).eval()
    for form in (torch.contiguous_format, last):
        x = torch.randn(1, 8, 64, 64).to(memory_format=form)
        folded = convbias.fold(network.to(memory_format=form), x, target=target)  # pyright: ignore
        layers = [m for m in folded.model.modules() if isinstance(m, (nn.Conv2d, convbias.Conv2d))]
        assert layers
        assert all(layer.weight.is_contiguous(memory_format=form) for layer in layers)
