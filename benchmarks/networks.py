"""Whole networks, as their papers have them, with random weights and normalisations that do something."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def conv(
    into: int, out: int, kernel: int, stride: int = 1, groups: int = 1, act: str = "relu"
) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    acts: dict[str, list[nn.Module]] = {"": [], "relu": [nn.ReLU()], "relu6": [nn.ReLU6()]}
    bare = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(bare, nn.BatchNorm2d(out), *acts[act])


class Residual(nn.Module):
    """``after(inner(x) + skip(x))``."""

    def __init__(self, inner: nn.Module, skip: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.inner, self.skip, self.after = inner, skip, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner(x) + self.skip(x))


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]


def resnet50() -> nn.Module:
    """He et al., Deep residual learning for image recognition, 2016; the stride on the 3×3."""
    blocks: list[nn.Module] = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    into = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for i in range(depth):
            stride = 2 if stage and i == 0 else 1
            inner = nn.Sequential(
                conv(into, width, 1), conv(width, width, 3, stride), conv(width, 4 * width, 1, act="")
            )
            skip = conv(into, 4 * width, 1, stride, act="") if i == 0 else nn.Identity()
            blocks.append(Residual(inner, skip, nn.ReLU()))
            into = 4 * width
    return nn.Sequential(*blocks, *head(into))


def mobilenet_v2() -> nn.Module:
    """Sandler et al., MobileNetV2: inverted residuals and linear bottlenecks, 2018."""
    blocks: list[nn.Module] = [conv(3, 32, 3, 2, act="relu6")]
    into = 32
    for factor, out, depth, first in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for i in range(depth):
            stride, wide = first if i == 0 else 1, factor * into
            widen = [] if factor == 1 else [conv(into, wide, 1, act="relu6")]
            inner = nn.Sequential(
                *widen, conv(wide, wide, 3, stride, wide, "relu6"), conv(wide, out, 1, act="")
            )
            same = stride == 1 and into == out
            blocks.append(Residual(inner, nn.Identity(), nn.Identity()) if same else inner)
            into = out
    return nn.Sequential(*blocks, conv(into, 1280, 1, act="relu6"), *head(1280))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of an image."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """A depthwise 7×7 convolution and two linear layers, scaled, beside the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, 1, 3, groups=width)
        self.rest = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.rest(self.depthwise(x).permute(0, 2, 3, 1)) * self.scale).permute(0, 3, 1, 2)


def convnext_tiny() -> nn.Module:
    """Liu et al., A ConvNet for the 2020s, 2022."""
    blocks: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96)]
    for stage, depth in enumerate((3, 3, 9, 3)):
        width = 96 * 2**stage
        if stage:
            blocks += [ChannelNorm(width // 2), nn.Conv2d(width // 2, width, 2, 2)]
        blocks += [ConvNeXtBlock(width) for _ in range(depth)]
    return nn.Sequential(
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(768), nn.Linear(768, 1000)
    )


class UNet(nn.Module):
    """Ronneberger et al., U-Net, 2015: a quarter as wide, padded, with BatchNorm."""

    def __init__(self, into: int = 4, out: int = 4, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        pairs = zip([into, *widths], widths, strict=False)
        self.down = nn.ModuleList(nn.Sequential(conv(a, b, 3), conv(b, b, 3)) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[:-1])
        self.join = nn.ModuleList(nn.Sequential(conv(2 * w, w, 3), conv(w, w, 3)) for w in widths[:-1])
        self.last, self.pool = nn.Conv2d(width, out, 1), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for i, down in enumerate(self.down):
            x = down(x if i == 0 else self.pool(x))
            kept.append(x)
        for i in reversed(range(len(self.up))):
            x = self.join[i](torch.cat([kept[i], self.up[i](x)], 1))
        return self.last(x)


# What makes a network, and the shape of a sample.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-50": (resnet50, (3, 224, 224)),
    "MobileNetV2": (mobilenet_v2, (3, 224, 224)),
    "ConvNeXt-T": (convnext_tiny, (3, 224, 224)),
    "U-Net": (UNet, (4, 176, 352)),
}


def made(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The network in eval mode, channels_last, and the shape of a sample."""
    make, sample = NETWORKS[name]
    network = make()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)  # pyright: ignore[reportArgumentType]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # pyright: ignore[reportArgumentType]
    return network.eval().to(memory_format=torch.channels_last), sample  # pyright: ignore[reportCallIssue]
