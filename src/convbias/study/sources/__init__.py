"""From wherever data lie to splits that a study runs on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ...errors import DataError, extra
from .. import data
from ..data import Data
from ..forecast import forecast
from . import dataset, folder, idx, npz
from .arrays import existing, tensor

TaskName = Literal["classify", "regress", "segment", "forecast"]
FACTORY = re.compile(r"[\w.]+:\w+")
# How NetCDF files begin, classic and HDF5, and what lies in a Zarr store.
MAGIC = (b"CDF\x01", b"CDF\x02", b"CDF\x05", b"\x89HDF")
ZARR = ("zarr.json", ".zgroup", ".zmetadata")


def load(
    source: str | Path | None,
    task: TaskName = "classify",
    *,
    lead: int | None = None,
    variable: str | None = None,
    mask: bool = False,
    moves: bool = False,
) -> Data:
    """What ``source`` holds, ready for a task: a file, a folder, ``module:factory``, or None for the digits.

    Files are npz, IDX, NetCDF and Zarr; folders hold images. A forecast takes a field over time, ``variable``
    where there are several, and a ``lead`` in steps. ``mask`` lets NaN stand for missing values. ``moves``
    reads labels as places of a board.

    Raises DataError for what cannot be read or used.

    >>> load(None).summary
    '1797 samples of 1×8×8, 10 classes; 1258 to train, 180 to choose the epoch, 359 to test'
    """
    if task not in get_args(TaskName):
        raise DataError("task", f"{task!r}: must be one of {', '.join(get_args(TaskName))}")
    if task == "forecast":
        if source is None or lead is None:
            raise DataError("task", "forecast: needs data with a field (time, h, w) and a lead")
        path = existing(source)
        if _is_grid(path):
            from . import grid

            return forecast(grid.series(path, variable, mask), lead)
        if path.is_dir():
            raise DataError(source, "is no Zarr store; a forecast takes NetCDF, Zarr or npz")
        return forecast(npz.series(path, variable, mask), lead)
    for name, value in (("lead", lead), ("variable", variable)):
        if value is not None:
            raise DataError(name, f"{value}: only a forecast has one; the task is {task}")
    if mask and task != "regress":
        raise DataError(
            "missing", f"mask: the targets of a regression or a forecast can be missing; the task is {task}"
        )
    if source is None:
        return digits() if task == "classify" else _no_default(task)
    if not Path(source).exists() and FACTORY.fullmatch(str(source)):
        return dataset.load(str(source), task, missing=mask, moves=moves)
    path = existing(source)
    if _is_grid(path):
        raise DataError(source, f"is a field on a grid, for the task forecast and not {task}")
    names: tuple[str, ...] = ()
    if path.is_dir():
        splits, names = folder.splits(path, task)
    elif _is_npz(path):
        splits = npz.splits(path, task)
    elif task == "classify":
        splits = idx.splits(path)
    else:
        raise DataError(source, f"to {task} it has to be an npz file or a folder of images")
    name = path.name
    if task == "segment":
        return data.segmentation(name, splits)
    if task == "regress":
        return data.regression(name, splits, missing=mask)
    return data.classification(name, splits, moves=moves, names=names)


def digits() -> Data:
    """scikit-learn's 1,797 handwritten digits of 8×8, which come with it (UCI, Alpaydin and Kaynak)."""
    with extra("study"):
        from sklearn.datasets import load_digits
    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    inputs = tensor(pixels).reshape(-1, 1, 8, 8)
    return data.classification("digits", data.split_at_random("digits", inputs, tensor(labels)))


def _no_default(task: str) -> Data:
    raise DataError("data", f"none: without data there are the digits, to classify and not to {task}")


def _is_npz(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK" or path.suffix == ".npz"


def _is_grid(path: Path) -> bool:
    """Whether xarray is wanted, which takes its time to load."""
    if path.is_dir():
        return any((path / name).exists() for name in ZARR)
    with path.open("rb") as file:
        return file.read(4) in MAGIC
