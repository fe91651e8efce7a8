"""Folders of images: one folder for each class, or images with their masks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from ...errors import DataError
from ..data import Pair, split_at_random
from .parts import with_validation
from .pictures import ENDINGS, images_in, stacked

SPLIT_NAMES: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def splits(folder: Path, task: str) -> tuple[dict[str, Pair], tuple[str, ...]]:
    """To classify, ``folder/class/image``; to segment, ``folder/images`` and ``folder/masks`` of one name.

    Either may be within folders ``train``, ``test`` and, if need be, ``val``; otherwise splits are made at
    random. All images must have one size; they are grey if all of them are, else in colour. With the splits
    come the names of the classes, none for masks.

    Raises DataError for what cannot be read or used.
    """
    if task == "regress":
        raise DataError(folder, "a folder of images has no values to regress; make an npz with targets")
    parts = _parts(folder) or {"": folder}
    if task == "classify":
        classes = {split: _of_classes(inside) for split, inside in parts.items()}
        names = tuple(sorted({name for of in classes.values() for name in of}))
        for name in names:
            if not any(of.get(name) for of in classes.values()):
                endings = ", ".join(ENDINGS)
                raise DataError(
                    folder, f"{name} holds no images ({endings}): it is no class; fill it, or take it away"
                )
        files = {split: [f for name in names for f in of.get(name, [])] for split, of in classes.items()}
        targets = {
            split: torch.tensor([i for i, name in enumerate(names) for _ in of.get(name, [])])
            for split, of in classes.items()
        }
    else:
        pairs = {split: _with_masks(inside) for split, inside in parts.items()}
        names = ()
        files = {split: list(of) for split, of in pairs.items()}
        targets = stacked({split: list(of.values()) for split, of in pairs.items()}, masks=True)
    inputs = stacked(files)
    found = {split: (inputs[split], targets[split]) for split in parts}
    if "" in found:
        return split_at_random(folder.name, *found[""], classes=bool(names)), names
    return with_validation(found), names


def _parts(folder: Path) -> dict[str, Path]:
    """The folders that are splits by their names, in any case; none where no name is one."""
    parts: dict[str, Path] = {}
    for inside in _folders(folder):
        split = SPLIT_NAMES.get(inside.name.lower())
        if split in parts:
            raise DataError(
                folder, f"{parts[split].name} and {inside.name} both mean {split}; keep one of them"
            )
        if split is not None:
            parts[split] = inside
    if parts and not {"train", "test"} <= parts.keys():
        found = " and ".join(part.name for part in parts.values())
        lacking = " and ".join(split for split in ("train", "test") if split not in parts)
        raise DataError(
            folder,
            f"has {found}, parts of the data by their names, but no {lacking}; a study needs train and "
            "test, and makes its own validation split where there is no val: rename the folders",
        )
    return parts


def _of_classes(folder: Path) -> dict[str, list[Path]]:
    found = {inside.name: images_in(inside) for inside in _folders(folder)}
    if not any(found.values()):
        raise DataError(folder, "has no images in folders, one for each class: folder/class/image.png")
    return found


def _with_masks(folder: Path) -> dict[Path, Path]:
    """Each image with the mask in the same place under ``masks``, whatever the endings are."""
    images, masks = folder / "images", folder / "masks"
    if not (images.is_dir() and masks.is_dir()):
        raise DataError(folder, "to segment it needs the folders images and masks, with files of one name")
    known, found = _by_place(masks), _by_place(images)
    if not found:
        raise DataError(images, "has no images")
    for place, image in found.items():
        if place not in known:
            raise DataError(image, f"has no mask of its name in {masks}: {place}.png or another ending")
    return {image: known[place] for place, image in found.items()}


def _by_place(folder: Path) -> dict[Path, Path]:
    found: dict[Path, Path] = {}
    for file in images_in(folder):
        place = file.relative_to(folder).with_suffix("")
        if place in found:
            raise DataError(file, f"has the name of {found[place].name} but for the ending; keep one of them")
        found[place] = file
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
