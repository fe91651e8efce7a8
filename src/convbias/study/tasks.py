"""What a network is trained for: the loss it descends and the error it is judged by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


class Task(ABC):
    """A loss for training and an error for judging, the lower the better. Abstract."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """The error's name and unit, for people."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """What training descends: a scalar, the mean over the batch."""

    @abstractmethod
    def error(self, output: Tensor, target: Tensor) -> float:
        """What the study compares, over all of a split at once."""


@dataclass(frozen=True)
class Classification(Task):
    """Class scores (N, K) against labels (N,): cross-entropy, and the percentage of wrong answers.

    >>> Classification().error(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    50.0
    """

    @property
    def metric(self) -> str:
        return "error in %"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def error(self, output: Tensor, target: Tensor) -> float:
        return 100 * (output.argmax(1) != target).double().mean().item()


@dataclass(frozen=True)
class Regression(Task):
    """Values against values of the same shape: the mean square, and its root times ``scale``.

    ``scale`` turns normalised values back into ``unit``.

    >>> Regression(scale=2.0, unit="K").error(torch.zeros(4), torch.ones(4))
    2.0
    """

    scale: float = 1.0
    unit: str = ""

    @property
    def metric(self) -> str:
        return f"RMSE in {self.unit}" if self.unit else "RMSE"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, target)

    def error(self, output: Tensor, target: Tensor) -> float:
        return self.scale * torch.sqrt(F.mse_loss(output.double(), target.double())).item()
