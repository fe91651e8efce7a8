"""Files of images, read as they are or refused: nothing in them is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, extra
from ..progress import bar
from .arrays import Array

with extra("study"):
    from PIL import Image, UnidentifiedImageError

ENDINGS: Final = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
# Telephones put a small preview behind a photograph.
WITH_PREVIEWS: Final = "MPO"


def images_in(folder: Path) -> list[Path]:
    """The images in ``folder`` and below it."""
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS)


def stacked(files: dict[str, list[Path]], masks: bool = False) -> dict[str, Tensor]:
    """Images as (N, C, H, W) and masks as (N, H, W), by split.

    Raises DataError for a file that cannot be read, and for one of another size or another type of numbers.
    """
    pictures: dict[str, list[Array]] = {split: [] for split in files}
    first: tuple[Path, Array] | None = None
    with bar(sum(map(len, files.values())), "images") as advance:
        for split, of in files.items():
            for file in of:
                picture = _picture(file, masks)
                first = first or (file, picture)
                _check_alike(file, picture, *first, masks=masks)
                pictures[split].append(picture)
                advance("reading", 1)
    if masks:
        return {split: torch.from_numpy(np.stack(of).astype(np.int64)) for split, of in pictures.items()}
    coloured = any(picture.ndim == 3 for of in pictures.values() for picture in of)
    return {
        split: torch.from_numpy(np.stack([_channels(picture, coloured) for picture in of]))
        for split, of in pictures.items()
    }


def _check_alike(file: Path, picture: Array, first: Path, other: Array, *, masks: bool) -> None:
    (height, width), (rows, columns) = picture.shape[:2], other.shape[:2]
    first = Path(first.parent.name, first.name)
    if (height, width) != (rows, columns):
        raise DataError(
            file,
            f"is {width}×{height}, and {first} is {columns}×{rows}; a bias that knows its place needs "
            "one size: resize or crop them first",
        )
    # A network would read a class off the scale. The numbers of masks have none.
    if picture.dtype != other.dtype and not masks:
        raise DataError(
            file,
            f"holds numbers of {_depth(picture)}, and {first} of {_depth(other)}, on another scale; "
            "save all images in one of them",
        )


def _depth(picture: Array) -> str:
    return f"{8 * picture.dtype.itemsize} bits{', with a point' * (picture.dtype.kind == 'f')}"


def _picture(file: Path, mask: bool) -> Array:
    """(H, W), or (H, W, 3) in colour; the indices of a mask with a palette."""
    try:
        with Image.open(file) as image:
            _check_whole(file, image)
            if image.mode == "1" and not mask:
                image = image.convert("L")
            if image.mode in ("P", "RGBA", "CMYK", "YCbCr", "LA", "PA") and not (mask and image.mode == "P"):
                image = image.convert("L" if image.mode == "LA" else "RGB")
            picture: Array = np.asarray(image)
    except DataError:
        raise
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(file, f"cannot be read as an image ({error})") from error
    if mask and picture.ndim == 3:
        raise DataError(file, "is in colour; a mask has one number for each place")
    return picture


def _check_whole(file: Path, image: Any) -> None:
    """Raise DataError for what Pillow would leave out of it without a word."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != WITH_PREVIEWS:
        raise DataError(
            file,
            f"holds {frames} images; save each as a file of its own, or volumes as inputs (N, C, D, H, W) in "
            "an npz",
        )
    if len(image.getbands()) > 1 and any(map(_is_deep, image.tile)):
        raise DataError(
            file,
            "has 16 bits for each channel, of which 8 would be lost; save the images as an array, images "
            "(N, H, W, C) in an npz",
        )


def _is_deep(tile: Any) -> bool:
    """Whether numbers of more than 8 bits are in the file; a PPM tells its largest number."""
    told = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    return any(";16" in word if isinstance(word, str) else (word or 0) > 255 for word in told)


def _channels(picture: Array, coloured: bool) -> Array:
    picture = picture.astype(np.float32)
    if not coloured:
        return picture[None]
    return np.moveaxis(picture, 2, 0) if picture.ndim == 3 else np.repeat(picture[None], 3, 0)
