"""The small networks that the study trains where it is given none."""

from __future__ import annotations

from torch import nn


def classifier(channels: int, size: tuple[int, int], classes: int) -> nn.Module:
    """Two 3×3 convolutions with pooling, and one linear layer: (N, channels, *size) to (N, classes)."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (size[0] // 4) * (size[1] // 4), classes),
    )


def forecaster(channels: int) -> nn.Module:
    """Three 3×3 convolutions of width 16: (N, channels, H, W) to (N, 1, H, W)."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 1, 3, padding=1),
    )
