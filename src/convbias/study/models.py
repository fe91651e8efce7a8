"""The networks that the study trains where it is given none: small, plain, and with a width."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn import functional as F


@final
@dataclass(frozen=True)
class Shape:
    """What a network takes and gives: ``inputs`` is (C, *space), ``outputs`` how many scores or values.

    ``dense`` networks give them for each place, (N, outputs, *space), others for each sample, (N, outputs).
    """

    inputs: tuple[int, ...]
    outputs: int
    dense: bool = False

    @property
    def space(self) -> tuple[int, ...]:
        return self.inputs[1:]

    def __str__(self) -> str:
        what = "each place" if self.dense else "each sample"
        return f"inputs {self.inputs}, {self.outputs} outputs for {what}"


Factory = Callable[..., Module]


def small(shape: Shape, width: int = 16) -> Module:
    """Two 3-convolutions with pooling and a linear layer; dense: three 3-convolutions."""
    conv, pool = _kind("Conv", shape), _kind("MaxPool", shape)
    if shape.dense:
        return nn.Sequential(
            conv(shape.inputs[0], width, 3, padding=1),
            nn.ReLU(),
            conv(width, width, 3, padding=1),
            nn.ReLU(),
            conv(width, shape.outputs, 3, padding=1),
        )
    _at_least(shape, 4, "small pools twice")
    pooled = 1
    for size in shape.space:
        pooled *= size // 4
    return nn.Sequential(
        conv(shape.inputs[0], width, 3, padding=1),
        nn.ReLU(),
        pool(2),
        conv(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        pool(2),
        nn.Flatten(),
        nn.Linear(2 * width * pooled, shape.outputs),
    )


@final
class UNet(Module):
    """Two levels down and up again, with what was there before each level beside what came back."""

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        conv = _kind("Conv", shape)

        def block(channels: int, filters: int) -> Module:
            return nn.Sequential(
                *(conv(channels, filters, 3, padding=1), nn.ReLU()),
                *(conv(filters, filters, 3, padding=1), nn.ReLU()),
            )

        self.pool = _kind("MaxPool", shape)(2)
        self.down1 = block(shape.inputs[0], width)
        self.down2 = block(width, 2 * width)
        self.bottom = block(2 * width, 4 * width)
        self.up2 = block(6 * width, 2 * width)
        self.up1 = block(3 * width, width)
        self.head = conv(width, shape.outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        third = self.bottom(self.pool(second))
        second = self.up2(torch.cat([_to_size_of(second, third), second], 1))
        first = self.up1(torch.cat([_to_size_of(first, second), first], 1))
        return self.head(first)


def unet(shape: Shape, width: int = 16) -> Module:
    """A U-Net of two levels, for dense outputs."""
    _only(shape, "unet", "gives values for each place", shape.dense)
    _at_least(shape, 4, "unet pools twice")
    return UNet(shape, width)


@final
class Residual(Module):
    """Two 3-convolutions with BatchNorm beside a shortcut, which is a 1-convolution where sizes differ."""

    def __init__(self, shape: Shape, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        conv, norm = _kind("Conv", shape), _kind("BatchNorm", shape)
        self.conv1 = conv(channels, filters, 3, stride, padding=1)
        self.norm1 = norm(filters)
        self.conv2 = conv(filters, filters, 3, padding=1)
        self.norm2 = norm(filters)
        alike = channels == filters and stride == 1
        self.shortcut = nn.Identity() if alike else conv(channels, filters, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet(shape: Shape, width: int = 16) -> Module:
    """A ResNet for small images: a stem, three stages of two blocks, the mean over space, a linear layer."""
    _only(shape, "resnet", "gives values for each sample", not shape.dense)
    pool = _kind("AdaptiveAvgPool", shape)
    blocks = [
        *(Residual(shape, width, width, 1), Residual(shape, width, width, 1)),
        *(Residual(shape, width, 2 * width, 2), Residual(shape, 2 * width, 2 * width, 1)),
        *(Residual(shape, 2 * width, 4 * width, 2), Residual(shape, 4 * width, 4 * width, 1)),
    ]
    stem = _kind("Conv", shape)(shape.inputs[0], width, 3, padding=1)
    head = [pool(1), nn.Flatten(), nn.Linear(4 * width, shape.outputs)]
    return nn.Sequential(stem, nn.ReLU(), *blocks, *head)


def go(shape: Shape, width: int = 32) -> Module:
    """A policy for a board, as AlphaGo's: 3×3 convolutions, and one 1×1 filter whose outputs are the moves.

    Source: Silver et al. 2016, Mastering the game of Go with deep neural networks and tree search.
    """
    places = torch.Size(shape.space).numel()
    fits = not shape.dense and len(shape.space) == 2 and shape.outputs == places
    _only(shape, "go", f"gives one score for each of {places} places of a board", fits)
    layers: list[Module] = [nn.Conv2d(shape.inputs[0], width, 5, padding=2), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 1), nn.Flatten())


def dilated(shape: Shape, width: int = 32) -> Module:
    """A 1D network of dilated convolutions, 1, 2, 4 and 8 apart, as for audio and sequences.

    Source: van den Oord et al. 2016, WaveNet.
    """
    _only(shape, "dilated", "runs over one axis", len(shape.space) == 1)
    layers: list[Module] = []
    channels = shape.inputs[0]
    for dilation in (1, 2, 4, 8):
        layers += [nn.Conv1d(channels, width, 3, padding=dilation, dilation=dilation), nn.ReLU()]
        channels = width
    if shape.dense:
        return nn.Sequential(*layers, nn.Conv1d(width, shape.outputs, 1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, shape.outputs))


MODELS: Final[Mapping[str, Factory]] = {
    "small": small,
    "unet": unet,
    "resnet": resnet,
    "go": go,
    "dilated": dilated,
}


def in_channels_last(factory: Factory) -> Factory:
    """The same networks for images, in the layout in which CPUs train them in two thirds of the time.

    Not for any network: one that calls ``.view`` on an image may raise.
    """

    @functools.wraps(factory)
    def make(*arguments: Any, **words: Any) -> Module:
        network = factory(*arguments, **words)
        for parameter in network.parameters():
            if parameter.dim() == 4:  # a 2D convolution's weight
                # Not .contiguous(): to that, a single channel lies both ways, to a convolution one way.
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
        return network

    return make


def _kind(name: str, shape: Shape) -> Any:
    """torch.nn's layer ``name`` for as many axes as the inputs have."""
    dims = len(shape.space)
    if dims not in (1, 2, 3):
        raise ValueError(
            f"model: takes inputs (C, *space) with one to three axes of space, not {shape.inputs}"
        )
    return getattr(nn, f"{name}{dims}d")


def _to_size_of(like: Tensor, x: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:])


def _only(shape: Shape, model: str, rule: str, fits: bool) -> None:
    if not fits:
        raise ValueError(f"model={model}: {rule}, and here are {shape}; choose another")


def _at_least(shape: Shape, size: int, why: str) -> None:
    if min(shape.space, default=size) < size:
        raise ValueError(f"model: {why} and needs {size} places along each axis, and here are {shape}")
