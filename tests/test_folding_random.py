"""Networks that nobody thought of: every fold is the same function, whatever is forced."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import convbias
from convbias.verifying import randomised

# `make fuzz` asks for more.
NETWORKS = int(os.environ.get("CONVBIAS_NETWORKS", "25"))
SIZE = 9

Layer = Callable[[int, st.DrawFn], tuple[nn.Module, int]]


class Lambda(nn.Module):
    """A function of the input and a buffer."""

    def __init__(self, run: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.run = run
        self.register_buffer("constant", torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.get_buffer("constant"))


class Branches(nn.Module):
    """Branches of one input, summed, with the input itself."""

    def __init__(self, branches: list[nn.Module], itself: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.itself = itself

    def forward(self, x: Tensor) -> Tensor:
        total = self.branches[0](x)
        for branch in list(self.branches)[1:]:
            total = total + branch(x)
        return total + x if self.itself else total


def some_conv(channels: int, draw: st.DrawFn) -> tuple[nn.Module, int]:
    out = draw(st.sampled_from([2, 4, channels]))
    kernel = draw(st.sampled_from([1, 1, 2, 3, (1, 3), (3, 2)]))
    groups = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0 and out % g == 0]))
    bias = draw(st.booleans())
    words: dict[str, Any] = {
        "padding": draw(st.sampled_from([0, 1, (1, 0), 2])),
        "dilation": draw(st.sampled_from([1, 1, 2])),
        "groups": groups,
        "padding_mode": draw(st.sampled_from(["zeros", "zeros", "zeros", "replicate", "circular"])),
    }
    return nn.Conv2d(channels, out, kernel, draw(st.sampled_from([1, 1, 1, 2])), bias=bias, **words), out


def some_tied(channels: int, draw: st.DrawFn) -> tuple[nn.Module, int]:
    bias = draw(st.sampled_from(["tied", "tap", "c + tap", False]))
    return convbias.Conv2d(channels, 4, 3, padding=draw(st.sampled_from([0, 1, 2])), bias=bias), 4


def some_transposed(channels: int, draw: st.DrawFn) -> tuple[nn.Module, int]:
    stride = draw(st.sampled_from([1, 2]))
    return nn.ConvTranspose2d(channels, 4, 3, stride, draw(st.sampled_from([0, 1]))), 4


def some_affine(channels: int, draw: st.DrawFn) -> tuple[nn.Module, int]:
    shape = draw(st.sampled_from([(channels, 1, 1), (1, channels, 1, 1), (1, 1, 1, 1), ()]))
    run = draw(
        st.sampled_from(
            [
                lambda x, c: x * c,
                lambda x, c: x + c,
                lambda x, c: (x - c) / (1 + c.abs()),
                lambda x, c: c - x,
                lambda x, c: torch.sub(x, c, alpha=2),
                lambda x, c: -x / 3 + c * 2,
            ]
        )
    )
    return Lambda(run, *shape), channels


def some_trap(channels: int, draw: st.DrawFn) -> tuple[nn.Module, int]:
    """A constant along a spatial axis, which may be as long as the channels or the kernel."""
    run = draw(
        st.sampled_from(
            [
                lambda x, c: x * c[: x.shape[-1]],
                lambda x, c: x + c[: x.shape[-1]],
                lambda x, c: x * c[: x.shape[-2], None],
                lambda x, c: torch.cat([x, (x[:, :1] * 0 + 1) * c[: x.shape[-1]]], 1)[:, : x.shape[1]],
            ]
        )
    )
    return Lambda(run, 64), channels


def some_channels(channels: int, draw: st.DrawFn) -> tuple[nn.Module, int]:
    def coordinates(x: Tensor, c: Tensor) -> Tensor:
        rows = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype)[:, None].expand(*x.shape[2:])
        return torch.cat([c.new_ones(len(x), 1, *x.shape[2:]), x, rows.expand(len(x), 1, -1, -1)], 1)

    return Lambda(coordinates, 1), channels + 2


def some_branches(channels: int, draw: st.DrawFn) -> tuple[nn.Module, int]:
    groups = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0]))
    branches: list[nn.Module] = [nn.Conv2d(channels, channels, 3, padding=1, groups=groups)]
    branches += draw(st.booleans()) * [nn.Conv2d(channels, channels, 1, groups=groups, bias=False)]
    branches += draw(st.booleans()) * [nn.BatchNorm2d(channels)]
    branches += draw(st.booleans()) * [nn.Sequential(nn.Conv2d(channels, channels, (1, 3), 1, (0, 1)))]
    branches += draw(st.booleans()) * [nn.AvgPool2d(3, 1, 1)]
    steps = [some_affine(channels, draw)[0], nn.Conv2d(channels, channels, 1), some_picks(channels, draw)[0]]
    branches += draw(st.booleans()) * [nn.Sequential(*draw(st.permutations([*steps, nn.AvgPool2d(3, 1, 1)])))]
    return Branches(branches, draw(st.booleans())), channels


def some_picks(channels: int, draw: st.DrawFn) -> tuple[nn.Module, int]:
    """Channels taken, changed and joined, some of them in ways that no convolution is."""
    axis = draw(st.sampled_from([1, 2, 3]))
    run = draw(
        st.sampled_from(
            [
                lambda x, c: x.flip(1),
                lambda x, c: x[:, [1, 0, *range(2, x.shape[1])]] * 2,
                lambda x, c: torch.cat([part * (i + 1) - i for i, part in enumerate(x.split(1, 1))], 1),
                lambda x, c: torch.stack([part / 3 for part in x.unbind(1)][::-1], 1),
                lambda x, c: torch.cat([x[:, 1:], c - x[:, :1]], 1),
                lambda x, c: x[:, :1].expand(-1, x.shape[1], -1, -1),
                lambda x, c: x[:, :1].repeat(1, x.shape[1], 1, 1) + c,
                lambda x, c: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2),
                lambda x, c: x.roll(1, axis),
                lambda x, c: torch.cat([x[..., 1:], x[..., :1]], 3),
                lambda x, c: torch.cat([x[:, :2].flip(3), x[:, 2:]], 1),
            ]
        )
    )
    return Lambda(run, 1), channels


def some_crop(channels: int, draw: st.DrawFn) -> tuple[nn.Module, int]:
    first, last, axis = draw(st.integers(0, 1)), draw(st.integers(0, 2)), draw(st.sampled_from([2, 3]))
    return Lambda(lambda x, c: x.narrow(axis, first, x.shape[axis] - first - last), 1), channels


def plain(*modules: Callable[[int], nn.Module]) -> Layer:
    return lambda channels, draw: (draw(st.sampled_from(modules))(channels), channels)


LAYERS: list[Layer] = [
    some_conv,
    some_conv,
    some_tied,
    some_transposed,
    some_affine,
    some_trap,
    some_channels,
    some_branches,
    some_picks,
    some_crop,
    plain(nn.BatchNorm2d),
    plain(nn.BatchNorm2d),
    plain(lambda c: nn.ReLU(), lambda c: nn.ReLU6(), lambda c: nn.Hardtanh(-1, 0.5), lambda c: nn.Sigmoid()),
    plain(lambda c: nn.MaxPool2d(2, 1), lambda c: nn.MaxPool2d(3, 1, 1), lambda c: nn.AvgPool2d(2, 1)),
    plain(
        lambda c: nn.ConstantPad2d((1, 0, 1, 2), 0.7),
        lambda c: nn.ZeroPad2d(1),
        lambda c: nn.ZeroPad2d((0, -1, 0, 0)),
        lambda c: nn.ReflectionPad2d(1),
    ),
    plain(lambda c: nn.Dropout(), lambda c: nn.Identity()),
]


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    torch.manual_seed(draw(st.integers(0, 1000)))
    channels, layers = 4, list[nn.Module]()
    for make in draw(st.lists(st.sampled_from(LAYERS), min_size=2, max_size=7)):
        layer, channels = make(channels, draw)
        layers.append(layer)
    if draw(st.booleans()):
        layers += [nn.Flatten(), nn.LazyLinear(3)]
    model = randomised(nn.Sequential(*layers).eval(), draw(st.integers(0, 1000)))
    for module in model.modules():
        if isinstance(module, convbias.Conv2d):
            for parameter in module.parameters():
                nn.init.normal_(parameter)
        if isinstance(module, nn.BatchNorm2d) and draw(st.booleans()):
            nn.init.normal_(module.weight)
    return model.double()


@settings(
    max_examples=NETWORKS,
    deadline=None,
    derandomize=NETWORKS <= 25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
@given(networks(), st.sampled_from(["eager", "inductor", "convbias", "all"]))
def test_a_folded_network_is_the_same_function(model: nn.Module, how: str) -> None:
    x = torch.randn(2, 4, SIZE, SIZE + 1, dtype=torch.float64)
    try:
        expected = model(x)
    except RuntimeError:  # an image that has become too small for a window
        return
    words: dict[str, Any] = {"force": "all"} if how == "all" else {"target": how}
    folded = convbias.fold(model, x, **words)
    assert not [row for row in folded.report.refused if "a bug" in row.reason], folded.report
    for images in (x, F.pad(x[..., 1:-1, 1:-1], [1] * 4), torch.ones_like(x)):
        expected = model(images)
        largest = max(1.0, expected.abs().max().item())
        assert (folded.model(images) - expected).abs().max() <= 1e-10 * largest, folded.report
    if how != "all" and folded.report.folded:
        assert folded.report.after.price < folded.report.before.price
