"""What a network is trained for: the loss it descends and the error it is judged by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import DataError

# The class of a place that has none, as in torch's cross-entropy.
IGNORED = -100


class Task(ABC):
    """A loss for training and an error for judging, the lower the better; NaN for outputs that are. Abstract.

    The error of a set of samples is a function of sums over them, so that it can be had for any part of
    a split and for samples drawn again.
    """

    @property
    @abstractmethod
    def metric(self) -> str:
        """The error's name and unit, for people."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """What training descends: a scalar, the mean over the batch."""

    def terms(self, target: Tensor) -> int:
        """Over how many terms the loss of a batch is a mean."""
        return len(target)

    @abstractmethod
    def tallies(self, output: Tensor, target: Tensor) -> Tensor:
        """What each sample adds to the error's sums, (N, M) in float64."""

    @abstractmethod
    def error(self, sums: Tensor) -> Tensor:
        """The error that sums (…, M) of tallies amount to, (…)."""


@dataclass(frozen=True)
class Classification(Task):
    """Class scores (N, K) against labels (N,): cross-entropy, and the percentage of wrong answers.

    ``unseen`` allows labels in the test split that training never shows, as the moves in a board game.

    >>> task = Classification()
    >>> tallies = task.tallies(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    >>> task.error(tallies.sum(0))
    tensor(50., dtype=torch.float64)
    """

    unseen: bool = False

    @property
    def metric(self) -> str:
        return "error in %"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def tallies(self, output: Tensor, target: Tensor) -> Tensor:
        wrong = (output.argmax(1) != target).double()
        wrong.masked_fill_(output.isnan().any(1), torch.nan)
        return torch.stack([wrong, torch.ones_like(wrong)], 1)

    def error(self, sums: Tensor) -> Tensor:
        return 100 * sums[..., 0] / sums[..., 1]


@dataclass(frozen=True)
class Segmentation(Task):
    """Class scores ``(N, K, *space)`` for each place against labels ``(N, *space)``, −100 where none is.

    Cross-entropy, and 100 minus the mean intersection over union in per cent: of each class that is there
    or is predicted, the places where truth and prediction agree, over those where either has it.

    >>> task = Segmentation(2)
    >>> scores = torch.tensor([[[2.0, 2.0], [0.0, 3.0]]])  # predicts 0, 1
    >>> task.error(task.tallies(scores, torch.tensor([[0, 1]])).sum(0))
    tensor(0., dtype=torch.float64)
    >>> task.error(task.tallies(scores, torch.tensor([[1, 1]])).sum(0))
    tensor(75., dtype=torch.float64)
    """

    classes: int

    @property
    def metric(self) -> str:
        return "100 − mIoU in %"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        # A batch without any label has no mean.
        total = F.cross_entropy(output, target, ignore_index=IGNORED, reduction="sum")
        return total / max(self.terms(target), 1)

    def terms(self, target: Tensor) -> int:
        return int((target != IGNORED).sum())

    def tallies(self, output: Tensor, target: Tensor) -> Tensor:
        known = (target != IGNORED).flatten(1)
        truth, answer = target.flatten(1), output.argmax(1).flatten(1)
        columns = []
        for number in range(self.classes):
            is_true, is_answer = (truth == number) & known, (answer == number) & known
            columns += [(is_true & is_answer).sum(1), (is_true | is_answer).sum(1)]
        unsure = (output.isnan().any(1).flatten(1) & known).any(1)
        return torch.stack(columns, 1).double().masked_fill(unsure[:, None], torch.nan)

    def error(self, sums: Tensor) -> Tensor:
        both, either = sums[..., 0::2], sums[..., 1::2]
        there = either > 0
        return 100 * (1 - (both / either.clamp(min=1)).sum(-1) / there.sum(-1))


@dataclass(frozen=True)
class Regression(Task):
    """Values against values of the same shape: the mean square, and its root times ``scale``.

    Outputs (N, 1) do for targets (N,). ``scale`` turns normalised values back into ``unit``. With
    ``missing``, targets that are NaN count neither in the loss nor in the error.

    >>> task = Regression(scale=2.0, unit="K")
    >>> task.error(task.tallies(torch.zeros(4), torch.ones(4)).sum(0))
    tensor(2., dtype=torch.float64)
    """

    scale: float = 1.0
    unit: str = ""
    missing: bool = False

    @property
    def metric(self) -> str:
        return f"RMSE in {self.unit}" if self.unit else "RMSE"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        if not self.missing:
            return F.mse_loss(*_alike(output, target))
        return self._apart(output, target).square().sum() / max(self.terms(target), 1)

    def terms(self, target: Tensor) -> int:
        return int(target.isfinite().sum()) if self.missing else target.numel()

    def tallies(self, output: Tensor, target: Tensor) -> Tensor:
        squares = self._apart(output.double(), target.double()).square()
        places = squares.reshape(len(target), -1)
        known = target.isfinite().reshape(len(target), -1)
        return torch.stack([places.sum(1), known.sum(1).double()], 1)

    def error(self, sums: Tensor) -> Tensor:
        return self.scale * (sums[..., 0] / sums[..., 1]).sqrt()

    def _apart(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = _alike(output, target)
        apart = output - target
        return torch.where(target.isfinite(), apart, 0) if self.missing else apart


def unseen(split: str, classes: Sequence[object]) -> DataError:
    """What to say of a split with classes that training never shows, and so cannot teach."""
    told = f"{', '.join(map(str, classes[:5]))}{' …' if classes[5:] else ''}"
    named, are, them = ("class", "is", "it") if len(classes) == 1 else ("classes", "are", "them")
    return DataError(
        split,
        f"the {named} {told} {are} not in the training split; leave {them} out, or give training samples",
    )


def _alike(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the target's shape, and no more digits than the output's: Python's numbers are float64."""
    if output.shape == (*target.shape, 1) and target.dim() == 1:
        output = output[:, 0]
    if output.shape != target.shape:
        raise ValueError(f"outputs {tuple(output.shape)} for targets {tuple(target.shape)}")
    return output, target.to(torch.promote_types(output.dtype, torch.float32))
