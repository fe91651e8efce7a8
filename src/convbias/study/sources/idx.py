"""IDX, the format of MNIST: type and axes in the head, then the numbers."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..data import Pair, split_at_random
from .arrays import Array, as_many, images, labels

# The type byte of an IDX file.
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def splits(file: Path) -> dict[str, Pair]:
    """The images of ``file``, plain or gzipped, with the labels beside it, split at random.

    ``…-images-idx3-ubyte`` finds ``…-labels-idx1-ubyte`` by its name. Raises DataError for what cannot be
    read or used.
    """
    pictures = read(file)
    if pictures.ndim == 1:
        raise DataError(file.name, "holds labels; give the file of the images, its labels are found")
    inputs, targets = images(file.name, pictures), labels(file.name, read(_labels_beside(file)))
    as_many(file.name, inputs, targets)
    return split_at_random(file.name, inputs, targets, classes=True)


def read(file: Path) -> Array:
    """The array of an IDX file, plain or gzipped: type and axes in its head, then the numbers."""
    content = file.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(file.name, f"is damaged or cut short ({error})") from error
    if len(content) < 4 or content[:2] != b"\x00\x00" or content[2] not in IDX_TYPES:
        raise DataError(
            file.name, "is neither an npz, a NetCDF nor an IDX file (first bytes: 0, 0, type, axes)"
        )
    dtype, axes = np.dtype(IDX_TYPES[content[2]]), content[3]
    head = 4 + 4 * axes
    shape = tuple(np.frombuffer(content[4:head], ">u4").tolist()) if len(content) >= head else ()
    if len(shape) != axes or len(content) - head != math.prod(shape) * dtype.itemsize:
        wanted = math.prod(shape) * dtype.itemsize if len(shape) == axes else "?"
        raise DataError(
            file.name,
            f"is damaged or cut short: its head promises {wanted} bytes for {shape}, "
            f"and {max(len(content) - head, 0)} follow",
        )
    return np.frombuffer(content, dtype, offset=head).reshape(shape).astype(dtype.newbyteorder("="))


def _labels_beside(file: Path) -> Path:
    stem = file.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    found = [file.with_name(stem + end) for end in ("", ".gz")]
    for candidate in found:
        if candidate.is_file() and candidate != file:
            return candidate
    raise DataError(
        file.name, f"its labels are not beside it; looked for {' and '.join(f.name for f in found)}"
    )
