"""npz files: samples in splits or to be split, or a field over time."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from torch import Tensor

from ...errors import DataError
from ..data import Pair, split_at_random
from ..forecast import Series
from .arrays import Array, as_many, images, labels, real, tensor
from .parts import with_validation

TASKS_TARGETS: Final = {
    "classify": ("labels", "targets"),
    "segment": ("masks", "labels", "targets"),
    "regress": ("targets", "labels"),
}
INPUTS: Final = ("images", "inputs")
# How files call the splits: MedMNIST's way, and Keras'.
SPLIT_NAMES: Final = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
KERAS: Final = {
    f"{letter}_{split}": f"{split}_{name}"
    for split in ("train", "val", "test")
    for letter, name in (("x", "images"), ("y", "labels"))
}


def splits(file: Path, task: str) -> dict[str, Pair]:
    """``images`` (N, H, W), (N, C, H, W) or (N, H, W, C), or ``inputs`` (N, C, *space), and their targets.

    Targets are ``labels`` (N,) to classify, ``masks`` (N, *space) to segment and ``targets`` to regress.
    Names that begin with ``train_``, ``val_`` and ``test_`` are splits; otherwise they are made at random.

    Raises DataError for what cannot be read or used.
    """
    arrays = {KERAS.get(name, name): array for name, array in read(file).items()}
    parts: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        split, _, rest = name.partition("_")
        if split in SPLIT_NAMES and rest:
            parts.setdefault(SPLIT_NAMES[split], {})[rest] = array
    if {"train", "test"} <= parts.keys():
        given = {split: _pair(f"{file.name}, {split}", of, task) for split, of in parts.items()}
        return with_validation(given)
    pair = _pair(file.name, arrays, task)
    return split_at_random(file.name, *pair, classes=task == "classify")


def series(file: Path, variable: str | None, mask: bool) -> Series:
    """The field (time, h, w) of the file: its one array with three axes, or ``variable``.

    An array ``time`` (datetime64, or hours since a midnight) tells the time. ``mask`` lets NaN be missing.
    """
    arrays = read(file)
    fields = [name for name, array in arrays.items() if array.ndim == 3]
    chosen = [variable] if variable is not None and variable in fields else fields
    if len(chosen) != 1 or (variable is not None and variable not in fields):
        wanted = "exactly one array (time, h, w)" if variable is None else f"an array {variable} (time, h, w)"
        also = "; --variable chooses" if variable is None and len(fields) > 1 else ""
        raise DataError(file.name, f"needs {wanted}, and has {_contents(arrays)}{also}")
    field = arrays[chosen[0]]
    real(file.name, chosen[0], field)
    hours = _hours(file.name, arrays["time"], field) if "time" in arrays else None
    return Series(f"{file.name}: {chosen[0]}", tensor(field).float(), hours, may_miss=mask)


def read(file: Path) -> dict[str, Array]:
    """The arrays of an npz file; pickled ones are refused."""
    with file.open("rb") as stream:
        head = stream.read(8)
    if not head.startswith((b"PK", np.lib.format.MAGIC_PREFIX)):
        raise DataError(
            file.name, f"is no npz, nor NetCDF or Zarr: it begins with {head!r}; is it what it says?"
        )
    try:
        # Opened here, for numpy leaves a damaged file open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise DataError(file.name, "is a single array, not an npz file; np.savez makes one")
            found = {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(file.name, f"is damaged or no npz file ({error})") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(file.name, f"holds what is no plain array ({error}); save numbers only") from error
    # numpy gives the bytes of whatever else lies in a zip.
    for name, array in found.items():
        if not isinstance(array, np.ndarray):
            raise DataError(
                file.name,
                f"is a zip of other files, {name} among them, and no npz; unzip it, and give the folder",
            )
    return found


def _pair(name: str, arrays: Mapping[str, Array], task: str) -> Pair:
    into = next((key for key in INPUTS if key in arrays), None)
    out_of = next((key for key in TASKS_TARGETS[task] if key in arrays), None)
    if into is None or out_of is None:
        wanted = f"{' or '.join(map(repr, INPUTS))} and {' or '.join(map(repr, TASKS_TARGETS[task]))}"
        raise DataError(
            name,
            f"to {task} it needs the arrays {wanted}, and has {_contents(arrays)}; "
            "a field (time, h, w) is for --task forecast",
        )
    make: Callable[[str, Array], Tensor] = images if into == "images" else _inputs
    inputs = make(name, arrays[into])
    targets = labels(name, arrays[out_of]) if task == "classify" else _targets(name, arrays[out_of], task)
    as_many(name, inputs, targets)
    return inputs, targets


def _inputs(name: str, array: Array) -> Tensor:
    real(name, "inputs", array)
    if array.ndim not in (3, 4, 5):
        raise DataError(
            name, f"inputs must be (N, C, *space) with one to three axes of space, not {array.shape}"
        )
    return tensor(array)


def _targets(name: str, array: Array, task: str) -> Tensor:
    real(name, "targets", array)
    if task == "segment" and array.dtype.kind not in "iub":
        raise DataError(name, f"masks must be whole numbers, not {array.dtype}")
    return tensor(array)


def _hours(name: str, time: Array, field: Array) -> Tensor:
    if time.shape != field.shape[:1] or time.dtype.kind not in "iufM":
        raise DataError(name, f"time must be {field.shape[:1]} times or hours, not {time.dtype} {time.shape}")
    if time.dtype.kind == "M":
        time = (time - time[:1].astype("datetime64[D]")) / np.timedelta64(1, "h")
    return tensor(time).double()


def _contents(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "none"
