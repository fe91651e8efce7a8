"""Whole networks rewritten by the laws: the same function, border and interior, and what is left of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convbias
from convbias.folding.costs import TARGETS
from convbias.folding.driver import LAWS, rewrite
from convbias.folding.graph import trace
from convbias.folding.laws import Refused
from convbias.folding.rewrite import written

C, SIZE = 4, 8
aten = torch.ops.aten
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, convbias.Conv2d, convbias.ConvTranspose2d)


def folded(model: nn.Module, x: Tensor) -> tuple[nn.Module, list[str], list[Refused]]:
    with warnings.catch_warnings():
        # torch's own copies of its tree specs.
        warnings.simplefilter("ignore", FutureWarning)
        network = trace(model, (x,))
    folds, refused = rewrite(network, TARGETS["eager"], forced=tuple(LAWS))
    return written(network), [fold.law for fold in folds], refused


def ready(model: nn.Module) -> nn.Module:
    """In eval mode and float64, with statistics that hide nothing."""
    for module in model.modules():
        if isinstance(module, convbias.Conv2d) and isinstance(module.bias, Tensor):
            nn.init.normal_(module.bias)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval().double()


class Net(nn.Module):
    """Layers, and a function of them and the input."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.register_buffer("mean", torch.randn(1, C, 1, 1))
        self.register_buffer("map", torch.randn(1, C, SIZE, SIZE))
        self.register_buffer("row", torch.randn(SIZE))
        self.register_buffer("nothing", torch.empty(0))
        self.register_buffer("matrix", torch.randn(C, C))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def conv(kernel: Any = 3, padding: Any = 1, inputs: int = C, outputs: int = C, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, **more)


def bn(channels: int = C) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels)


def coordinates(x: Tensor) -> Tensor:
    rows, columns = torch.linspace(-1, 1, x.shape[2]), torch.linspace(-1, 1, x.shape[3])
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return torch.cat([x, grid.to(x.dtype).expand(len(x), -1, -1, -1)], 1)


def padded_by(norm: nn.BatchNorm2d, y: Tensor) -> Tensor:
    """DBB's way: zero padding, overwritten with what the norm makes of zero."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    value = norm.bias - norm.running_mean * norm.weight / torch.sqrt(norm.running_var + norm.eps)
    y = F.pad(norm(y), [1] * 4)
    for part in (y[:, :, :1], y[:, :, -1:], y[:, :, :, :1], y[:, :, :, -1:]):
        part[:] = value.view(1, -1, 1, 1)
    return y


def into_ones(x: Tensor) -> Tensor:
    y = x.new_ones(len(x), C + 1, SIZE, SIZE)
    y[:, :C].copy_(x)
    return y


def one_by_one(x: Tensor, constant: Tensor) -> Tensor:
    y = x.new_empty(len(x), C + 3, SIZE, SIZE)
    y[:, 1 : C + 1] = x
    y[:, 0] = constant
    y[:, -2:-1] = 0.3
    y[:, C + 2] = 1
    return y


def written_over(x: Tensor, value: Any) -> Tensor:
    y = x.clone()
    y[:, :, :1] = value
    return y


class ACBlock(nn.Module):
    """ACNet's block as its authors wrote it: branches that need less than no padding are cropped."""

    def __init__(self, kernel: int, padding: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        less = padding - kernel // 2
        self.crop = max(-less, 0)
        words: dict[str, Any] = {"stride": stride, "groups": groups, "bias": False}
        self.square_conv = conv(kernel, padding, **words)
        self.ver_conv = conv((kernel, 1), (padding, max(less, 0)), **words)
        self.hor_conv = conv((1, kernel), (max(less, 0), padding), **words)
        self.square_bn, self.ver_bn, self.hor_bn = bn(), bn(), bn()

    def forward(self, x: Tensor) -> Tensor:
        square, crop = self.square_bn(self.square_conv(x)), self.crop
        vertical, horizontal = x, x
        if crop > 0:
            vertical, horizontal = x[:, :, :, crop:-crop], x[:, :, crop:-crop, :]
        return square + self.ver_bn(self.ver_conv(vertical)) + self.hor_bn(self.hor_conv(horizontal))


def dbb(net: Any, x: Tensor) -> Tensor:
    pooled = net.norm3(net.pool(padded_by(net.norm1, net.point1(x))))
    return net.norm4(net.conv(x)) + pooled + net.norm5(net.conv2(padded_by(net.norm2, net.point2(x))))


def two(net: Any, x: Tensor) -> Tensor:
    y = net.norm(x)
    return net.a(y).relu() * net.b(y).sigmoid()


# The network, the laws that apply, and the layers that are left.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], set[str], list[str]]] = {
    "norm after": (
        lambda: nn.Sequential(conv(), bn(), nn.ReLU()),
        {"affine after"},
        ["tied"],
    ),
    "norm before padding": (lambda: nn.Sequential(bn(), conv()), {"affine before"}, ["tap"]),
    "norm before no padding": (lambda: nn.Sequential(bn(), conv(padding=0)), {"affine before"}, ["tied"]),
    "norm before two": (
        lambda: Net(
            two,
            norm=bn(),
            a=conv(),
            b=conv(groups=C, bias=False),
        ),
        {"affine before"},
        ["tap", "tap"],
    ),
    "normalised": (
        lambda: Net(lambda n, x: n.conv((x - n.mean) / 0.7), conv=conv(stride=2)),
        {"affine before"},
        ["tap"],
    ),
    "other spellings": (
        lambda: Net(lambda n, x: 2 - n.conv(3 * -x + n.mean.flatten()[:, None, None]) / 4, conv=conv()),
        {"affine before", "affine after"},
        ["tap"],
    ),
    **{
        f"spelled: {what}": (
            lambda run=run: Net(
                run, conv=conv(), norm=bn(), wide=conv(inputs=2 * C), row_norm=nn.BatchNorm1d(C)
            ),
            {law},
            [left],
        )
        for what, run, law, left in (
            ("multiply", lambda n, x: n.conv(torch.multiply(x, n.mean)), "affine before", "tied"),
            ("subtract", lambda n, x: n.conv(torch.subtract(x, n.mean, alpha=2)), "affine before", "tap"),
            ("divide", lambda n, x: torch.divide(n.conv(x), n.mean), "affine after", "tied"),
            ("true_divide", lambda n, x: torch.true_divide(n.conv(x), 3), "affine after", "tied"),
            ("negative", lambda n, x: torch.negative(n.conv(x)), "affine after", "tied"),
            ("rsub, a factor", lambda n, x: n.conv(torch.rsub(x, 2.0, alpha=3)), "affine before", "tap"),
            ("add, a factor", lambda n, x: n.conv(aten.add.Scalar(x, 2.0, 3.0)), "affine before", "tap"),
            (
                "rsub of a branch",
                lambda n, x: torch.rsub(n.conv(x), x, alpha=3),
                "parallel branches",
                "tied",
            ),
            (
                "nothing joined",
                lambda n, x: n.conv(n.norm(torch.cat([x, n.nothing], 1))),
                "affine before",
                "tap",
            ),
            (
                "nothing joined, beside constants",
                lambda n, x: n.wide(torch.cat([n.nothing, x, torch.ones_like(x)], 1)),
                "constant channels",
                "tap",
            ),
            (
                "a norm of places in a row",
                lambda n, x: n.row_norm(n.conv(x).flatten(2)),
                "token bias",
                "tied",
            ),
            (
                "addcmul",
                lambda n, x: torch.addcmul(n.mean, n.conv(x), n.mean, value=2),
                "affine after",
                "tied",
            ),
            ("addcmul, last", lambda n, x: torch.addcmul(n.mean, n.mean, n.conv(x)), "affine after", "tied"),
            (
                "addcdiv",
                lambda n, x: torch.addcdiv(n.mean, n.conv(x), n.mean, value=2),
                "affine after",
                "tied",
            ),
            ("addcdiv, first", lambda n, x: n.conv(torch.addcdiv(x, n.mean, n.mean)), "affine before", "tap"),
            ("lerp", lambda n, x: n.conv(torch.lerp(x, n.mean, 0.3)), "affine before", "tap"),
            ("lerp, to", lambda n, x: torch.lerp(n.mean, n.conv(x), n.mean), "affine after", "tied"),
            (
                "instance_norm",
                lambda n, x: F.instance_norm(
                    n.conv(x), n.mean[0, :, 0, 0], n.mean[0, :, 0, 0] ** 2, use_input_stats=False
                ),
                "affine after",
                "tied",
            ),
            ("casts", lambda n, x: n.norm(n.conv(x).to(x.dtype)).type_as(x), "affine after", "tied"),
            ("a view", lambda n, x: n.conv(n.norm(x).view(x.shape)), "affine before", "tap"),
            (
                "concat",
                lambda n, x: n.wide(torch.concat([x, torch.ones_like(x)], 1)),
                "constant channels",
                "tap",
            ),
            (
                "hstack",
                lambda n, x: n.wide(torch.hstack([torch.ones_like(x), x])),
                "constant channels",
                "tap",
            ),
            (
                "einsum",
                lambda n, x: torch.einsum("nchw,kc->nkhw", n.norm(x), n.matrix),
                "affine before",
                "tied",
            ),
            (
                "einsum over one channel, as if it were more",
                lambda n, x: torch.einsum("nchw,kc->nkhw", n.conv(x * 2)[:, :1], n.matrix),
                "affine before",
                "tied",
            ),
            (
                "einsum, turned round",
                lambda n, x: n.norm(torch.einsum("ij, bixy -> bjxy", n.matrix, x)),
                "affine after",
                "tied",
            ),
            (
                "einsum, as a layout",
                lambda n, x: n.conv(torch.einsum("nhwc->nchw", x.permute(0, 2, 3, 1) * n.mean.flatten())),
                "affine before",
                "tied",
            ),
            (
                "a sum of a stack",
                lambda n, x: torch.stack([n.conv(x), n.norm(x), x], 1).sum(1),
                "parallel branches",
                "tied",
            ),
            (
                "a mean of a stack",
                lambda n, x: torch.stack([n.conv(x), x]).mean(0),
                "parallel branches",
                "tied",
            ),
            (
                "channels_last on the way",
                lambda n, x: n.conv(n.norm(2 - x).contiguous(memory_format=torch.channels_last)),
                "affine before",
                "tap",
            ),
            (
                "channels at the end",
                lambda n, x: n.conv(
                    ((x.permute(0, 2, 3, 1) - n.row[:C]) / n.mean.flatten())
                    .permute(0, 3, 1, 2)
                    .to(memory_format=torch.channels_last)
                ),
                "affine before",
                "tap",
            ),
            (
                "as large as the image",
                lambda n, x: n.conv(x * torch.full_like(x, 0.7) + n.mean.expand_as(x)),
                "affine before",
                "tap",
            ),
        )
    },
    "map after": (lambda: Net(lambda n, x: n.conv(x) + n.map, conv=conv()), {"affine after"}, ["untied"]),
    "columns after": (lambda: Net(lambda n, x: n.conv(x) + n.row, conv=conv()), {"affine after"}, ["c + w"]),
    "map before": (lambda: Net(lambda n, x: n.conv(x + n.map), conv=conv()), {"affine before"}, ["untied"]),
    "coordinates": (
        lambda: Net(lambda n, x: n.conv(coordinates(x)), conv=conv(inputs=C + 2)),
        {"constant channels"},
        ["untied"],
    ),
    "a plane of ones": (
        lambda: Net(
            lambda n, x: n.conv(torch.cat([torch.ones_like(x[:, :1]), x], 1)), conv=conv(inputs=C + 1)
        ),
        {"constant channels"},
        ["tap"],
    ),
    "planes of numbers": (
        lambda: Net(
            lambda n, x: n.conv(
                torch.cat([x.new_full((x.shape[0], 1, SIZE, SIZE), 0.3), x, torch.zeros_like(x)], 1)
            ),
            conv=conv(inputs=2 * C + 1),
        ),
        {"constant channels"},
        ["tap"],
    ),
    "a plane of ones, written around the image": (
        lambda: Net(lambda n, x: n.conv(into_ones(x)), conv=conv(inputs=C + 1)),
        {"constant channels"},
        ["tap"],
    ),
    "channels written one by one": (
        lambda: Net(lambda n, x: n.conv(one_by_one(x, n.map[0, 0])), conv=conv(inputs=C + 3)),
        {"constant channels"},
        ["untied"],
    ),
    "constants between what is joined": (
        lambda: Net(
            lambda n, x: n.conv(torch.cat([x, n.map.expand(len(x), -1, -1, -1), x.relu()], -3)),
            conv=conv(inputs=3 * C),
        ),
        {"constant channels"},
        ["untied"],
    ),
    "a concat within another": (
        lambda: Net(
            lambda n, x: n.conv(
                torch.cat([torch.cat([x, n.map.expand(len(x), -1, -1, -1)], 1), x.relu()], 1)
            ),
            conv=conv(inputs=3 * C),
        ),
        {"constant channels"},
        ["untied"],
    ),
    "a constant in each group": (
        lambda: Net(
            lambda n, x: n.conv(torch.cat([x[:, :2], one := torch.ones_like(x[:, :1]), x[:, 2:], one], 1)),
            conv=conv(inputs=C + 2, groups=2),
        ),
        {"constant channels"},
        ["tap"],
    ),
    "zeros around a padded convolution": (
        lambda: nn.Sequential(nn.ZeroPad2d(1), conv(dilation=2)),
        {"constant padding"},
        ["tied"],
    ),
    **{
        f"constant padding before a convolution that would pad with {mode}": (
            lambda mode=mode: nn.Sequential(nn.ConstantPad2d(1, 0.7), conv(padding=0, padding_mode=mode)),
            {"constant padding"},
            ["tap"],
        )
        for mode in ("reflect", "replicate", "circular")
    },
    "constant padding": (
        lambda: nn.Sequential(nn.ConstantPad2d(1, 0.7), conv(padding=0)),
        {"constant padding"},
        ["tap"],
    ),
    "a border written where its size is known": (
        lambda: Net(lambda n, x: n.conv(written_over(F.pad(x, (0, 0, 1, 0)), 1)), conv=conv(padding=0)),
        {"constant padding"},
        ["untied"],
    ),
    "uneven padding": (
        lambda: nn.Sequential(nn.ConstantPad2d((1, 2, 0, 1), 0.7), conv(padding=0)),
        {"constant padding"},
        ["untied"],
    ),
    "pointwise before": (
        lambda: nn.Sequential(conv(1, 0, C, 2 * C), bn(2 * C), conv(3, 1, 2 * C, C)),
        {"composition"},
        ["tap"],
    ),
    "RepVGG": (
        lambda: Net(
            lambda n, x: n.b3(n.c3(x)) + n.b1(n.c1(x)) + n.b0(x),
            **{"c3": conv(bias=False), "c1": conv(1, 0, bias=False), "b3": bn(), "b1": bn(), "b0": bn()},
        ),
        {"affine after", "parallel branches"},
        ["tied"],
    ),
    "ACNet": (
        lambda: Net(
            lambda n, x: n.a(x) + n.b(x) + n.c(x),
            **{"a": conv(), "b": conv((3, 1), (1, 0)), "c": conv((1, 3), (0, 1))},
        ),
        {"parallel branches"},
        ["tied"],
    ),
    "branches within a larger sum": (
        lambda: Net(
            lambda n, x: x.relu() - (n.conv(x) + n.point(x) + (n.norm(x) + n.map)),
            **{"conv": conv(), "point": conv(1, 0), "norm": bn()},
        ),
        {"parallel branches"},
        ["tied"],
    ),
    "branches of two images": (
        lambda: Net(
            lambda n, x: n.a(x) + (n.b(y := x.relu()) + n.c(x)) + n.d(y),
            **{"a": conv(), "b": conv(), "c": conv(1, 0), "d": conv(1, 0)},
        ),
        {"parallel branches"},
        ["tied", "tied"],
    ),
    **{
        f"outputs that are equally large at even sizes only, {kernels}": (
            lambda kernels=kernels: Net(
                lambda n, x: n.a(x) + n.b(x) + F.avg_pool2d(x, 2),
                **{name: conv(k, p, stride=2) for name, (k, p) in zip("ab", kernels, strict=True)},
            ),
            {"parallel branches"},
            ["tied"],
        )
        for kernels in (((3, 1), (2, 0)), ((4, 1), (3, 1)), ((1, 0), (5, 2)))
    },
    "itself twice": (
        lambda: Net(lambda n, x: x + x + n.conv(x), conv=conv()),
        {"parallel branches"},
        ["tied"],
    ),
    "a difference": (
        lambda: Net(
            lambda n, x: (
                n.norm(x) - torch.sub(n.conv(x) - x, torch.add(n.point(x), n.other(x), alpha=2), alpha=3)
            ),
            **{"conv": conv(), "point": conv(1, 0), "other": conv(groups=2), "norm": bn()},
        ),
        {"parallel branches"},
        ["tied"],
    ),
    "identity": (
        lambda: Net(lambda n, x: x + n.conv(x), conv=conv(groups=2)),
        {"parallel branches"},
        ["tied"],
    ),
    "DBB": (
        lambda: Net(
            dbb,
            **{"conv": conv(bias=False), "point1": conv(1, 0, bias=False), "point2": conv(1, 0, bias=False)},
            **{"conv2": conv(3, 0, bias=False), "pool": nn.AvgPool2d(3, 1)},
            **{f"norm{i}": bn() for i in range(1, 6)},
        ),
        {"affine after", "parallel branches"},
        ["tied"],
    ),
    **{
        f"ACNet, official, {what}": (
            lambda words=words: ACBlock(**words),
            {"affine after", "parallel branches"},
            ["tied"],
        )
        for what, words in {
            "padded": {"kernel": 3, "padding": 1},
            "cropped": {"kernel": 3, "padding": 0},
            "cropped, strided, in groups": {"kernel": 5, "padding": 1, "stride": 2, "groups": 2},
        }.items()
    },
    "cropped by one side": (
        lambda: Net(lambda n, x: n.conv(x[:, :, 2:, :-1]), conv=conv(padding=0)),
        {"cropping"},
        ["tied"],
    ),
    "cropped along one axis, padded along the other": (
        lambda: Net(lambda n, x: n.conv(n.norm(x)[..., 1:-1]), conv=conv((3, 2), (1, 0)), norm=bn()),
        {"cropping", "affine before"},
        ["tap"],
    ),
    **{
        f"cropped, as {what}": (
            lambda run=run: Net(lambda n, x: n.conv(run(x)), conv=conv(padding=0)),
            {"cropping"},
            ["tied"],
        )
        for what, run in {
            "an axis from the end": lambda x: x.narrow(-1, 1, 6),
            "the second part of a split": lambda x: x.split([3, 5], 2)[1],
            "the first of parts of five": lambda x: x.split(5, -1)[0],
            "places one by one": lambda x: x.index_select(2, torch.arange(1, 7)),
            "an index": lambda x: x[:, :, torch.tensor([2, 3, 4, 5, 6])],
        }.items()
    },
    "a negative padding": (lambda: nn.Sequential(nn.ZeroPad2d(-1), conv(padding=0)), {"cropping"}, ["tied"]),
    "a cropped skip": (
        lambda: Net(lambda n, x: x[:, :, 1:-1, 1:-1] - n.conv(x), conv=conv(padding=0)),
        {"parallel branches"},
        ["tied"],
    ),
    "a normalised skip": (
        lambda: Net(lambda n, x: (x - n.mean) * 0.3 + n.conv(x), conv=conv()),
        {"parallel branches"},
        ["tied"],
    ),
    "a normalised image beside its convolution": (
        lambda: Net(lambda n, x: n.conv(y := n.norm(x)) + y, conv=conv(), norm=bn()),
        {"parallel branches", "affine before"},
        ["tap"],
    ),
    "a branch of two steps": (
        lambda: Net(
            lambda n, x: n.conv(x) + F.avg_pool2d(n.point(n.norm(x)), 3, 1, 1),
            **{"conv": conv(), "point": conv(1, 0), "norm": bn()},
        ),
        {"parallel branches"},
        ["tap"],
    ),
    **{
        f"picked channels: {what}": (
            lambda run=run: Net(lambda n, x: n.conv(n.norm(run(n, x))), conv=conv(), norm=bn()),
            {"picked channels"},
            ["tap"],
        )
        for what, run in {
            "normalised one by one": lambda n, x: torch.cat(
                [(x[:, :1] - 0.3) / 2, x[:, 1].unsqueeze(1) * 3, x[:, 2:] * n.mean[:, :2] - 0.7], 1
            ),
            "stacked": lambda n, x: torch.stack([x[:, i] * 2 - i for i in (2, 0, 0, 3)], 1),
            "split": lambda n, x: torch.cat([2 * part - 1 for part in x.split(2, 1)], 1),
            "unbound": lambda n, x: torch.stack(x.unbind(1)[::-1], 1),
            "in another order": lambda n, x: x[:, [2, 1, 0, 3]],
            "turned round": lambda n, x: x.flip(1),
            "repeated": lambda n, x: x[:, 1:2].repeat(1, C, 1, 1),
            "shuffled": lambda n, x: x.view(-1, 2, 2, SIZE, SIZE).transpose(1, 2).reshape(x.shape),
            "shuffled by torch": lambda n, x: F.channel_shuffle(x, 2),
            "with others": lambda n, x: torch.cat([x[:, :2], 1 - x[:, 2:]], 1),
        }.items()
    },
    "picked channels in groups": (
        lambda: Net(lambda n, x: n.conv(x[:, [2, 1, 0, 3]] * 2), conv=conv(groups=2, padding=0)),
        {"affine before", "picked channels"},
        ["tied"],
    ),
    "one channel as several": (
        lambda: Net(
            lambda n, x: n.conv(n.first(x).relu().expand(-1, C, -1, -1)), conv=conv(), first=conv(outputs=1)
        ),
        {"picked channels"},
        ["tied"],
    ),
    "our layers": (
        lambda: nn.Sequential(
            convbias.Conv2d(C, C, 3, padding=1, bias="c h", output_size=(SIZE, SIZE)), bn(), nn.ReLU()
        ),
        {"affine after"},
        ["c h"],
    ),
    **{
        f"our layers, by label: {bias}": (
            lambda bias=bias: nn.Sequential(
                bn(), convbias.Conv2d(C, C, 3, padding=1, bias=bias, output_size=(SIZE, SIZE)), bn()
            ),
            {"affine before", "affine after"},
            ["untied"],
        )
        for bias in ("sym:d4", convbias.Regions(torch.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 3))
    },
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(C, C, 4, 2, 1), bn()),
        {"affine after"},
        ["tied"],
    ),
    **{
        f"{mode} padding, torch's": (
            lambda mode=mode: nn.Sequential(bn(), conv(padding_mode=mode), bn()),
            {"affine before", "affine after"},
            ["tied"],
        )
        for mode in ("reflect", "replicate", "circular")
    },
    **{
        f"{mode} padding, more on one side": (
            lambda mode=mode: Net(
                lambda n, x: n.conv(F.pad(n.norm(x), (2, 1, 0, 1), mode)), conv=conv(padding=0), norm=bn()
            ),
            {"affine before"},
            ["tied"],
        )
        for mode in ("reflect", "replicate", "circular")
    },
    "a padding beside": (
        lambda: Net(
            lambda n, x: n.norm(n.a(x)) + n.b(F.pad(x, [1] * 4, "circular")).relu(),
            **{"a": conv(), "b": conv(padding=0), "norm": bn()},
        ),
        {"affine after"},
        ["tied"],
    ),
    "circular": (
        lambda: nn.Sequential(bn(), convbias.Conv2d(C, C, 3, padding=1, padding_mode="circular")),
        {"affine before"},
        ["tied"],
    ),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_a_network_is_the_same_function_in_fewer_layers(case: str) -> None:
    make, laws, left = NETWORKS[case]
    model, x = ready(make()), torch.randn(2, C, SIZE, SIZE, dtype=torch.float64)
    expected = model(x)
    result, applied, _ = folded(model, x)
    assert set(applied) >= laws
    layers = [module for module in result.modules() if isinstance(module, CONVOLUTIONS)]
    assert [repr(getattr(layer, "tying", "tied")).strip("'") for layer in layers] == left
    if laws:
        assert not any("batch_norm" in str(node.target) for node in result.graph.nodes)  # pyright: ignore
    for images in (x, torch.zeros_like(x), torch.ones_like(x), 3 * x.flip(0)):
        apart = (result(images) - model(images)).abs()
        limit = 1e-12 * expected.abs().max()
        assert apart[..., 1:-1, 1:-1].max() <= limit
        assert apart.max() <= limit


def reads_twice(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) * y


REFUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "read twice": (
        lambda: Net(reads_twice, conv=conv(), norm=bn()),
        "affine after",
        "the convolution's output is also used by mul: it would run twice",
    ),
    "norm read elsewhere": (
        lambda: Net(lambda n, x: (y := n.norm(x)) + n.conv(y).relu(), conv=conv(), norm=bn()),
        "affine before",
        "its output is also used by add: nothing would be saved",
    ),
    "a scale along the width, as long as the channels": (
        lambda: Net(lambda n, x: n.conv(x[..., :C]) * n.row[:C], conv=conv()),
        "affine after",
        "the scale differs from place to place",
    ),
    "a constant of the kernel's size": (
        lambda: Net(lambda n, x: n.conv(x[..., :3] * n.row[:3]), conv=conv()),
        "affine before",
        "the scale differs from place to place",
    ),
    "within the batch": (
        lambda: Net(lambda n, x: n.conv(x) + n.map[:, :2].reshape(2, 1, SIZE, SIZE), conv=conv()),
        "affine after",
        "the constant differs within the batch",
    ),
    "a slice written over": (
        lambda: Net(lambda n, x: n.conv(written_over(n.norm(x), 0)), conv=conv(), norm=bn()),
        "constant padding",
        "what is written onto is no padding",
    ),
    "a border of the image's own": (
        lambda: Net(lambda n, x: n.conv(written_over(F.pad(x, [1] * 4), x.mean())), conv=conv(padding=0)),
        "constant padding",
        "what is written depends on the input",
    ),
    "a part of the channels written over": (
        lambda: Net(lambda n, x: n.conv((y := x.relu(), y[:, :1].zero_())[0]), conv=conv()),
        "constant channels",
        "a part of relu is written over",
    ),
    "padded twice": (
        lambda: nn.Sequential(nn.ConstantPad2d(1, 0.7), conv()),
        "constant padding",
        "the convolution pads once more",
    ),
    "cropped and padded": (
        lambda: nn.Sequential(nn.ZeroPad2d((1, 1, -1, -1)), conv(padding=0)),
        "constant padding",
        "crops the image",
    ),
    "padded where it is cropped": (
        lambda: Net(lambda n, x: n.conv(x[:, :, 1:]), conv=conv()),
        "cropping",
        "the convolution pads where the image is cropped",
    ),
    "places in another order": (
        lambda: Net(lambda n, x: n.conv(x.index_select(2, torch.tensor([3, 2, 4, 5]))), conv=conv(padding=0)),
        "cropping",
        "the places that it takes are not one after the other",
    ),
    "places of the input's": (
        lambda: Net(lambda n, x: n.conv(x.index_select(2, x[0, 0, 0].argsort()[:5])), conv=conv(padding=0)),
        "cropping",
        "which places it takes depends on the input",
    ),
    "every second place": (
        lambda: Net(lambda n, x: n.conv(x[:, :, ::2]), conv=conv()),
        "cropping",
        "it leaves out places in between",
    ),
    "channels that are read elsewhere": (
        lambda: Net(lambda n, x: n.conv(y := x.flip(1)) + y.relu(), conv=conv()),
        "picked channels",
        "its output is also used by relu: nothing would be saved",
    ),
    "places that change among each other": (
        lambda: Net(lambda n, x: n.conv(x.flip(1, 3)), conv=conv()),
        "picked channels",
        "places or images change among each other",
    ),
    "images that change among each other": (
        lambda: Net(lambda n, x: n.conv(x.flip(0)), conv=conv()),
        "picked channels",
        "places or images change among each other",
    ),
    "a pointwise read twice": (
        lambda: Net(
            lambda n, x: n.a(y := n.point(x)).relu() + n.b(y).sigmoid(), a=conv(), b=conv(), point=conv(1, 0)
        ),
        "composition",
        "more than one reads the first one's output",
    ),
    "a branch whose first step is shared": (
        lambda: Net(
            lambda n, x: n.conv(x) + F.avg_pool2d(n.point(x), 3, 1, 1) + n.point(x.relu()).relu(),
            **{"conv": conv(), "point": conv(1, 0)},
        ),
        "parallel branches",
        "its weight is shared with another call of it",
    ),
    "reflected around a padded convolution": (
        lambda: nn.Sequential(nn.ReflectionPad2d((1, 0, 1, 1)), conv()),
        "constant padding",
        "reflect",
    ),
    "a shared weight behind a reflected border": (
        lambda: Net(
            lambda n, x: (
                n.conv(n.norm(F.pad(x, [1] * 4, "reflect"))) + n.conv(F.pad(x, [1] * 4, "reflect") * 2)
            ),
            conv=conv(padding=0),
            norm=bn(),
        ),
        "affine before",
        "its weight is shared with",
    ),
    "pointwise with padding": (
        lambda: nn.Sequential(conv(1, 1), conv()),
        "composition",
        "neither is a 1×1 convolution without padding",
    ),
    "a branch twice": (
        lambda: Net(lambda n, x: (y := n.conv(x)) + y + n.point(x), conv=conv(), point=conv(1, 0)),
        "parallel branches",
        "conv is added twice",
    ),
    "a sum with something else, several times": (
        lambda: Net(
            lambda n, x: torch.add(n.conv(x) + n.point(x), x.relu(), alpha=2), conv=conv(), point=conv(1, 0)
        ),
        "parallel branches",
        "the rest of the sum has relu 2 times",
    ),
    "a sum with something larger": (
        lambda: Net(lambda n, x: n.a(x) + n.b(x) + x.relu(), a=conv(8, 0), b=conv(8, 0, bias=False)),
        "parallel branches",
        "the rest of the sum makes (2, 4, 1, 1) another value",
    ),
    "images joined to others": (
        lambda: Net(
            lambda n, x: torch.cat([n.map.flatten(2), n.conv(x).flatten(2)], 0) + n.map.flatten(2),
            conv=conv(),
        ),
        "token bias",
        "it joins images",
    ),
    "outputs of other sizes": (
        lambda: Net(lambda n, x: n.a(x) + n.b(x), a=conv(8, 0), b=conv()),
        "parallel branches",
        "the branches' outputs differ in size along axis 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_exact_or_saves_nothing_is_refused_with_a_reason(case: str) -> None:
    make, law, said = REFUSED[case]
    model, x = ready(make()), torch.randn(2, C, SIZE, SIZE, dtype=torch.float64)
    result, _, refused = folded(model, x)
    assert any(place.law == law and said in place.reason for place in refused), refused
    assert (result(x) - model(x)).abs().max() <= 1e-12 * model(x).abs().max()


AXES: dict[tuple[int, int], bool] = {
    **{(1, -2): True, (2, -3): True, (3, -4): True, (3, 1): True},
    # Depth, length and height, though they stand where the channels of another image would.
    **{(3, -3): False, (1, -1): False, (2, -2): False},
}


@pytest.mark.parametrize("place", AXES)
def test_channels_are_the_second_axis(place: tuple[int, int]) -> None:
    (dims, axis), folds = place, AXES[place]
    kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    model = Net(
        lambda n, x: n.conv(torch.cat([x, torch.ones_like(x)], axis)),
        conv=kind(2 * C if folds else C, C, 3, padding=1),
    )
    x = torch.randn(2, C, *(5, 6, 7)[:dims], dtype=torch.float64)
    result, applied, refused = folded(ready(model), x)
    assert applied == (["constant channels"] if folds else [])
    assert not refused
    torch.testing.assert_close(result(x), model(x), rtol=0, atol=1e-12)
