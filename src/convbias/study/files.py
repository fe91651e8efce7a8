"""From files to data: npz and IDX, and the digits that need no file."""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError, extra
from .data import Data, classification, forecast

Array = NDArray[np.generic]

# The type byte of an IDX file.
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
CHANNELS_OF_PICTURES = (1, 3, 4)


def digits() -> Data:
    """scikit-learn's 1,797 handwritten digits of 8×8, which come with it (UCI, Alpaydin and Kaynak)."""
    with extra("study"):
        from sklearn.datasets import load_digits
    pixels, labels = load_digits(return_X_y=True)
    return classification("digits", _tensor(pixels).reshape(-1, 1, 8, 8), _tensor(labels))


def load_images(path: str | Path) -> Data:
    """Images and labels: an npz file with both, or an IDX file of images with that of labels beside it.

    npz: ``images`` (N, H, W), (N, C, H, W) or (N, H, W, C) and ``labels`` (N,). IDX (MNIST's format), plain
    or gzipped: ``…-images-idx3-ubyte`` finds ``…-labels-idx1-ubyte`` by its name.

    Raises DataError for what cannot be read or used.
    """
    file = _existing(path)
    if zipfile.is_zipfile(file) or file.suffix == ".npz":
        arrays = read_npz(file)
        if not {"images", "labels"} <= arrays.keys():
            raise DataError(
                file.name,
                f"needs the arrays 'images' and 'labels', and has {_contents(arrays)}; "
                "a field (time, h, w) is for --task forecast",
            )
        images, labels = arrays["images"], arrays["labels"]
    else:
        images = read_idx(file)
        if images.ndim == 1:
            raise DataError(file.name, "holds labels; give the file of the images, its labels are found")
        labels = read_idx(_labels_beside(file))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError(file.name, f"labels must be whole numbers (N,), not {labels.dtype} {labels.shape}")
    return classification(file.name, _channels_first(file.name, images), _tensor(labels))


def load_field(path: str | Path, lead: int) -> Data:
    """A field (time, H, W) in an npz file, to be forecast ``lead`` steps ahead.

    The file's one array with three axes is the field. An array ``time`` (datetime64, or hours since a
    midnight) tells the time of day. Raises DataError for what cannot be read or used.
    """
    file = _existing(path)
    arrays = read_npz(file)
    fields = [name for name, array in arrays.items() if array.ndim == 3]
    if len(fields) != 1:
        raise DataError(file.name, f"needs exactly one array (time, h, w), and has {_contents(arrays)}")
    field, time = arrays[fields[0]], arrays.get("time")
    if field.dtype.kind not in "iuf":
        raise DataError(file.name, f"{fields[0]} must be real numbers, not {field.dtype}")
    hours = None
    if time is not None:
        if time.shape != field.shape[:1] or time.dtype.kind not in "iufM":
            raise DataError(
                file.name, f"time must be {field.shape[:1]} times or hours, not {time.dtype} {time.shape}"
            )
        if time.dtype.kind == "M":
            time = (time - time.astype("datetime64[D]")) / np.timedelta64(1, "h")
        hours = _tensor(time).double()
    return forecast(f"{file.name}: {fields[0]}", _tensor(field), lead, hours)


def read_npz(file: Path) -> dict[str, Array]:
    """The arrays of an npz file; pickled ones are refused."""
    try:
        # Opened here, for numpy leaves a damaged file open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise DataError(file.name, "is a single array, not an npz file; np.savez makes one")
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(file.name, f"is damaged or no npz file ({error})") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(file.name, f"holds what is no plain array ({error}); save numbers only") from error


def read_idx(file: Path) -> Array:
    """The array of an IDX file, plain or gzipped: type and axes in its head, then the numbers."""
    content = file.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(file.name, f"is damaged or cut short ({error})") from error
    if len(content) < 4 or content[:2] != b"\x00\x00" or content[2] not in IDX_TYPES:
        raise DataError(file.name, "is neither an npz nor an IDX file (first bytes: 0, 0, type, axes)")
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


def _channels_first(name: str, images: Array) -> Tensor:
    if images.dtype.kind not in "iufb":
        raise DataError(name, f"images must be real numbers, not {images.dtype}")
    if images.ndim == 3:
        return _tensor(images)[:, None]
    if images.ndim != 4:
        raise DataError(name, f"images must be (N, H, W) or (N, C, H, W), not {images.shape}")
    last = images.shape[3] in CHANNELS_OF_PICTURES and images.shape[1] not in CHANNELS_OF_PICTURES
    return _tensor(np.moveaxis(images, 3, 1) if last else images)


def _existing(path: str | Path) -> Path:
    file = Path(path)
    if not file.is_file():
        raise DataError(path, "is a folder; give a file" if file.is_dir() else "no such file")
    return file


def _contents(arrays: dict[str, Array]) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "none"


def _tensor(array: Array) -> Tensor:
    # torch has no arithmetic for the wider unsigned types.
    plain = array.astype(np.int64) if array.dtype.kind in "ui" else array
    return torch.from_numpy(np.ascontiguousarray(plain))
