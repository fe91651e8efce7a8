"""What fits a convolution: tensors, channels, sizes, fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ShapeError
from ..geometry import Geometry


def check_tensor(name: str, given: object) -> None:
    """Raise TypeError for what is no tensor."""
    if not isinstance(given, Tensor):
        told = repr(given)
        told = f"{told[:60]}…" if len(told) > 60 else told
        raise TypeError(f"{name}={told}: must be a tensor, not {type(given).__name__}")


def check_size(size: torch.Size, weight: torch.Size, geometry: Geometry, groups: int) -> None:
    """Raise ShapeError, in torch's words, for an input of a ``size`` that the convolution cannot take."""
    dims, transposed = geometry.dims, geometry.transposed
    if len(size) not in (dims + 1, dims + 2):
        raise ShapeError(
            "input",
            list(size),
            f"Expected {dims + 1}D (unbatched) or {dims + 2}D (batched) input to "
            f"conv{'_transpose' if transposed else ''}{dims}d, but got input of size: {list(size)}",
        )
    channels, _ = channels_of(weight, groups, transposed)
    if size[-dims - 1] != channels:
        kind = "transposed=1" if transposed else f"groups={groups}"
        raise ShapeError(
            "input",
            list(size),
            f"Given {kind}, weight of size {list(weight)}, expected input{list(size)} to have "
            f"{channels} channels, but got {size[-dims - 1]} channels instead",
        )


def check_groups(groups: object) -> None:
    """Raise ShapeError for what channels cannot be grouped by, TypeError for what is no number of groups."""
    if not isinstance(groups, int):
        raise TypeError(f"groups={groups!r}: must be a positive integer, not {type(groups).__name__}")
    if isinstance(groups, bool) or groups < 1:
        raise ShapeError("groups", groups, "groups must be a positive integer")


def channels_of(weight: Sequence[int], groups: int, transposed: bool) -> tuple[int, int]:
    """How many channels go in, and come out, by a weight of this shape."""
    first, second = weight[0], weight[1] * groups
    return (first, second) if transposed else (second, first)


def fits(field: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a field has the axes of ``shape``, each full or 1."""
    return len(field) == len(shape) and all(n in (1, most) for n, most in zip(field, shape, strict=True))
