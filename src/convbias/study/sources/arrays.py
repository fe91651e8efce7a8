"""Arrays from files, made into tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DataError

Array = NDArray[np.generic]
CHANNELS_OF_PICTURES: Final = (1, 3, 4)


def tensor(array: Array) -> Tensor:
    """torch has no arithmetic for the wider unsigned types."""
    plain = array.astype(np.int64) if array.dtype.kind in "uib" else array
    return torch.from_numpy(np.ascontiguousarray(plain))


def images(name: str, array: Array) -> Tensor:
    """Images (N, H, W), (N, C, H, W) or (N, H, W, C) as (N, C, H, W).

    Channels come last where there are 1, 3 or 4 there, and not in front.

    Raises DataError for anything else, and where the last axis could well be the channels'.
    """
    real(name, "images", array)
    if array.ndim == 3:
        return tensor(array)[:, None]
    if array.ndim != 4:
        raise DataError(
            name,
            f"images must be (N, H, W), (N, C, H, W) or (N, H, W, C), not {array.shape}; signals and volumes "
            "are called inputs, (N, C, *space)",
        )
    last = array.shape[3] in CHANNELS_OF_PICTURES and array.shape[1] not in CHANNELS_OF_PICTURES
    if not last and array.shape[1] not in CHANNELS_OF_PICTURES and array.shape[3] < array.shape[1]:
        raise DataError(
            name,
            f"images {array.shape} may be (N, H, W, C) or (N, C, H, W); save them as inputs, which are "
            "(N, C, *space), as np.moveaxis(images, 3, 1) makes them",
        )
    return tensor(np.moveaxis(array, 3, 1) if last else array)


def labels(name: str, array: Array) -> Tensor:
    """Labels (N,), or (N, 1), as whole numbers."""
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise DataError(name, f"labels must be whole numbers (N,), not {array.dtype} {array.shape}")
    return tensor(array)


def real(name: str, what: str, array: Array) -> None:
    """Raise DataError for what are no real numbers."""
    if array.dtype.kind not in "iufb":
        raise DataError(name, f"{what} must be real numbers, not {array.dtype}")


def as_many(name: str, inputs: Tensor, targets: Tensor) -> None:
    """Raise DataError where inputs and targets are no pairs."""
    if len(inputs) != len(targets):
        raise DataError(name, f"{len(inputs)} inputs but {len(targets)} targets; one each is needed")


def existing(path: str | Path) -> Path:
    """The file or folder. Raises DataError where there is none."""
    found = Path(path)
    if not found.exists():
        raise DataError(path, "no such file")
    return found
