"""What ``compare`` is given, checked before anything is trained."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import Dataset

from ..errors import DataError
from ..tying import Tying
from .samples import Named, Samples, count, plain


def samples(name: str, given: Any) -> Samples:
    """Inputs and targets as tensors, or a data set that says which of its samples cannot be read."""
    if isinstance(given, (tuple, list)) and len(given) == 2:
        if all(isinstance(part, (Tensor, np.ndarray)) for part in given):
            return plain(*map(torch.as_tensor, given))
    elif isinstance(given, Dataset) or (hasattr(given, "__getitem__") and hasattr(given, "__len__")):
        return Named(name, given)
    raise DataError(
        name,
        f"must be a pair of tensors (inputs, targets) or a Dataset that can be indexed, not a "
        f"{type(given).__name__}",
    )


def seeds(given: int | Sequence[int]) -> list[int]:
    """Their numbers, each once."""
    numbers: Any = range(given) if isinstance(given, int) else given
    if isinstance(numbers, str) or not hasattr(numbers, "__iter__"):
        raise ValueError(f"seeds={given!r}: must be a whole number, or several in a list")
    found = list(dict.fromkeys(numbers))
    if not all(isinstance(number, int) for number in found):
        raise ValueError(f"seeds={given!r}: must be whole numbers")
    if not found:
        raise ValueError(f"seeds={given}: at least one is needed, and two for an interval")
    return found


def tyings(given: Sequence[bool | str | Tying] | None) -> Sequence[bool | str | Tying] | None:
    """The same; a single one is no sequence of them."""
    if isinstance(given, (str, bool, Tying)):
        raise ValueError(f"tyings={given!r}: must be a list; write [{given!r}]")
    return given


def blocks(given: Tensor | None, test: Samples) -> Tensor | None:
    """The same, one number for each test sample."""
    if given is not None and tuple(given.shape) != (count(test),):
        raise ValueError(
            f"blocks={tuple(given.shape)}: must be one number for each of the {count(test)} test samples"
        )
    return given


def factory(given: Any) -> Callable[..., Module]:
    """A function that makes networks, whatever goes wrong in it."""
    if isinstance(given, Module) or not callable(given):
        raise ValueError(
            f"make_model={type(given).__name__}: must be a function that makes a new network each time, for "
            "each seed has weights of its own; write def make_model(): return …"
        )

    # So that its signature, and with it a width, shows; not all that can be called can be wrapped.
    @functools.wraps(given, assigned=(), updated=())
    def make(*arguments: Any, **words: Any) -> Module:
        try:
            model = given(*arguments, **words)
        except (Exception, SystemExit) as error:
            raise ValueError(f"make_model: the factory failed, {type(error).__name__}: {error}") from error
        if not isinstance(model, Module):
            raise ValueError(f"make_model: must return a torch.nn.Module, not {type(model).__name__}")
        return model

    return make
