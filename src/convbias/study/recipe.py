"""How a network is trained, and on what shape of data."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# Inputs (N, …) and targets (N, …).
Samples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, which decays no bias."""

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
