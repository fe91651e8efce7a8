"""What is trained in a study, one network at a time, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, final
from urllib.parse import quote

from torch import Tensor

from ..tying import Tying
from .recipe import Recipe


@final
@dataclass(frozen=True)
class Job:
    """One network to train. ``width`` None is the factory's own; ``tuning`` keeps the test split shut."""

    tying: Tying
    seed: int
    recipe: Recipe
    width: int | None = None
    tuning: bool = False

    @property
    def label(self) -> str:
        """The row of the table that it belongs to."""
        return label(repr(self.tying), self.width)

    @property
    def name(self) -> str:
        """For a file: other than that of every other job in the study."""
        words = [f"seed {self.seed}", quote(repr(self.tying), safe=" ")]
        if self.width is not None:
            words.append(f"width {self.width}")
        if self.tuning:
            words.append(f"tuning {self.recipe.learning_rate:.3g} {self.recipe.weight_decay:.3g}")
        return ", ".join(words)


@final
@dataclass(frozen=True)
class Trial:
    """One network trained: its error on the test split at ``epoch``, the one with the least validation error.

    While tuning it is the validation error. ``fields`` are the bias fields ``(C, *out)`` that it learned, by
    layer; ``shares`` what part of each layer's output is data, padding, tied and position, as in
    :func:`convbias.decompose`; ``tallies`` what each test sample adds to the error. ``failure`` says why a
    network has no finite error, and is empty where it has one; ``epoch`` is then how far it came.
    ``unexplained`` says why a network that has one has no fields and shares.
    """

    tying: str
    seed: int
    width: int | None
    recipe: Mapping[str, Any]
    parameters: int
    error: float
    epoch: int
    curve: tuple[float, ...]
    shares: Mapping[str, Mapping[str, float]]
    threads: int
    fields: Mapping[str, Tensor]
    tallies: Tensor
    failure: str = ""
    unexplained: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trial) and self.numbers == other.numbers

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @property
    def label(self) -> str:
        """The row of the table that it belongs to."""
        return label(self.tying, self.width)

    @property
    def numbers(self) -> dict[str, Any]:
        """All but the tensors, plain enough for JSON."""
        plain = asdict(replace(self, fields={}, tallies=Tensor()))
        return {name: value for name, value in plain.items() if name not in ("fields", "tallies")}


def label(tying: str, width: int | None) -> str:
    """How people call a tying, at another width than the network's own.

    >>> label("tied", 48)
    'tied, width 48'
    """
    return tying if width is None else f"{tying}, width {width}"
