"""What is asked of a study, in words that can be kept in a file and read again by another process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, final

import torch
from torch.nn import Module

from ..errors import DataError, OutputError
from ..tying import parse
from .bench import Bench
from .data import Data
from .factories import load_model
from .models import MODELS, in_channels_last
from .recipe import Optimizer, Precision, Recipe
from .runs import REQUEST
from .sources import TaskName, load
from .team import ALONE, Team

DEFAULT_MODEL = "small"


@final
@dataclass(frozen=True)
class Request:
    """A study in words; what is None has a default that fits the data. See ``convbias study --help``."""

    data: str | None = None
    task: TaskName = "classify"
    lead: int | None = None
    variable: str | None = None
    mask: bool = False
    model: str | None = None
    where: str | None = None
    tyings: tuple[str, ...] | None = None
    seeds: int = 5
    tune: bool = False
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    optimizer: Optimizer = "adamw"
    precision: Precision = "float32"
    compiled: bool = False

    def __post_init__(self) -> None:
        for spelling in self.tyings or ():
            parse(spelling)
        if self.model is not None and ":" not in self.model and self.model not in MODELS:
            raise ValueError(
                f"model={self.model}: must be one of {', '.join(MODELS)}, or module:factory, as in nets:make "
                "for make() in nets.py"
            )

    def __getstate__(self) -> dict[str, Any]:
        """The words alone: another process loads for itself."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, known: dict[str, Any], folder: Path) -> Self:
        """The request that a run's folder holds."""
        try:
            words = {f.name: known[f.name] for f in fields(cls)}
        except KeyError as error:
            raise OutputError(folder / REQUEST, f"lacks {error}; it is not this version's") from error
        tyings = words["tyings"]
        return cls(**{**words, "tyings": None if tyings is None else tuple(tyings)})

    @cached_property
    def loaded(self) -> Data:
        """The data."""
        return load(
            self.data,
            self.task,
            lead=self.lead,
            variable=self.variable,
            mask=self.mask,
            moves=self.model == "go",
        )

    @cached_property
    def make_model(self) -> Callable[..., Module]:
        """The network's factory."""
        if self.model is not None and ":" in self.model:
            return load_model(self.model)
        factory = MODELS[self.model or DEFAULT_MODEL]
        return partial(factory, self.loaded.shape)

    @cached_property
    def recipe(self) -> Recipe:
        """The data's recipe, with what is asked otherwise."""
        asked = {
            name: getattr(self, name) for name in ("epochs", "batch_size", "learning_rate", "weight_decay")
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return replace(
            self.loaded.recipe,
            optimizer=self.optimizer,
            precision=self.precision,
            compiled=self.compiled,
            **given,
        )

    def bench(self, device: torch.device, team: Team = ALONE) -> Bench:
        """The bench that the networks are trained on."""
        data = self.loaded
        if self.tune and data.validation is None:
            raise DataError(data.name, "has no validation split, which --tune needs")
        mine = self.model is None or ":" not in self.model
        make = in_channels_last(self.make_model) if mine and device.type == "cpu" else self.make_model
        return Bench(
            *(make, data.train, data.validation, data.test, data.task, self.where),
            device=device,
            team=team,
        )
