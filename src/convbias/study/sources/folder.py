"""Folders of images: one folder for each class, or images with their masks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, extra
from ..data import Pair, split_at_random
from ..progress import bar
from .arrays import Array
from .parts import with_validation

with extra("study"):
    from PIL import Image, UnidentifiedImageError

ENDINGS: Final = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
SPLIT_NAMES: Final = {
    "train": "train",
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    "test": "test",
}


def splits(folder: Path, task: str) -> dict[str, Pair]:
    """To classify, ``folder/class/image``; to segment, ``folder/images`` and ``folder/masks`` of one name.

    Either may be within folders ``train``, ``test`` and, if need be, ``val``; otherwise splits are made at
    random. All images must have one size; they are grey if all of them are, else in colour.

    Raises DataError for what cannot be read or used.
    """
    if task == "regress":
        raise DataError(folder, "a folder of images has no values to regress; make an npz with targets")
    find = _of_classes if task == "classify" else _with_masks
    parts = {SPLIT_NAMES[f.name]: f for f in _folders(folder) if f.name in SPLIT_NAMES}
    if {"train", "test"} <= parts.keys():
        files = {split: find(inside) for split, inside in parts.items()}
    else:
        files = {"": find(folder)}
    if task == "classify":
        names = sorted({str(label) for pairs in files.values() for _, label in pairs})
        targets = {s: torch.tensor([names.index(str(c)) for _, c in pairs]) for s, pairs in files.items()}
    else:
        targets = _stacked({s: [Path(mask) for _, mask in pairs] for s, pairs in files.items()}, masks=True)
    inputs = _stacked({s: [image for image, _ in pairs] for s, pairs in files.items()})
    if "" in files:
        return split_at_random(folder.name, inputs[""], targets[""])
    return with_validation({s: (inputs[s], targets[s]) for s in files})


def _of_classes(folder: Path) -> list[tuple[Path, str | Path]]:
    found: list[tuple[Path, str | Path]] = [(f, c.name) for c in _folders(folder) for f in _images(c)]
    if not found:
        raise DataError(folder, "has no images in folders, one for each class: folder/class/image.png")
    return found


def _with_masks(folder: Path) -> list[tuple[Path, str | Path]]:
    images, masks = folder / "images", folder / "masks"
    if not (images.is_dir() and masks.is_dir()):
        raise DataError(folder, "to segment it needs the folders images and masks, with files of one name")
    known = {mask.stem: mask for mask in _images(masks)}
    found: list[tuple[Path, str | Path]] = []
    for image in _images(images):
        if image.stem not in known:
            raise DataError(image, f"has no mask of its name in {masks}")
        found.append((image, known[image.stem]))
    if not found:
        raise DataError(images, "has no images")
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS)


def _stacked(files: dict[str, list[Path]], masks: bool = False) -> dict[str, Tensor]:
    """Images as (N, C, H, W) and masks as (N, H, W), by split."""
    pictures: dict[str, list[Array]] = {split: [] for split in files}
    first: tuple[Path, tuple[int, ...]] | None = None
    with bar(sum(map(len, files.values())), "images") as advance:
        for split, of in files.items():
            for file in of:
                picture = _picture(file, masks)
                first = first or (file, picture.shape[:2])
                if picture.shape[:2] != first[1]:
                    raise DataError(
                        file,
                        f"is {picture.shape[1]}×{picture.shape[0]}, and {first[0].name} is "
                        f"{first[1][1]}×{first[1][0]}; a bias that knows its place needs one size: resize or "
                        "crop them first",
                    )
                pictures[split].append(picture)
                advance("reading", 1)
    if masks:
        return {split: torch.from_numpy(np.stack(of).astype(np.int64)) for split, of in pictures.items()}
    coloured = any(picture.ndim == 3 for of in pictures.values() for picture in of)
    return {
        split: torch.from_numpy(np.stack([_channels(picture, coloured) for picture in of]))
        for split, of in pictures.items()
    }


def _picture(file: Path, mask: bool) -> Array:
    """(H, W), or (H, W, 3) in colour; the indices of a mask with a palette."""
    try:
        with Image.open(file) as image:
            if image.mode in ("P", "RGBA", "CMYK", "YCbCr", "LA", "PA") and not (mask and image.mode == "P"):
                image = image.convert("L" if image.mode == "LA" else "RGB")
            picture: Array = np.asarray(image)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(file, f"cannot be read as an image ({error})") from error
    if mask and picture.ndim == 3:
        raise DataError(file, "is in colour; a mask has one number for each place")
    return picture


def _channels(picture: Array, coloured: bool) -> Array:
    picture = picture.astype(np.float32)
    if not coloured:
        return picture[None]
    return np.moveaxis(picture, 2, 0) if picture.ndim == 3 else np.repeat(picture[None], 3, 0)
