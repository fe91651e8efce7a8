"""Folders of images, data sets of one's own, splits that are given, and what they are refused for."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from convbias.errors import DataError
from convbias.study import Data, Recipe, Regression, Segmentation, compare, load, samples
from convbias.study.models import small
from convbias.study.samples import batch, checksum, count

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 255, (40, 6, 5), dtype=np.uint8)
LABELS = np.arange(40) % 4


def write(folder: Path, images: Any = IMAGES, labels: Any = LABELS, ending: str = ".png") -> Path:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / f"class {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"class {label}" / f"{number:03}{ending}")
    return folder


def sizes(data: Data) -> list[int]:
    return [count(split) for split in data.splits.values()]


def by_label(inputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    order = torch.argsort(targets, stable=True)
    return inputs[order], targets[order]


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp", ".PGM"])
def test_a_folder_of_classes_is_its_images(tmp_path: Path, ending: str) -> None:
    data = load(write(tmp_path / "cells", ending=ending))
    np.savez(tmp_path / "same.npz", images=IMAGES[np.argsort(LABELS, kind="stable")], labels=np.sort(LABELS))
    same = load(tmp_path / "same.npz")
    assert_close(data.train, same.train)
    assert_close(data.test, same.test)
    assert data.summary == same.summary.replace("4 classes", "4 classes (class 0, class 1, class 2, class 3)")


def test_one_image_in_colour_makes_all_coloured(tmp_path: Path) -> None:
    folder = write(tmp_path / "cells")
    colour = RANDOM.integers(0, 255, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(colour).save(folder / "class 0" / "colour.png")
    assert load(folder).shape.inputs == (3, 6, 5)
    alpha = np.concatenate([colour, np.full((6, 5, 1), 9, np.uint8)], 2)
    Image.fromarray(alpha).save(folder / "class 0" / "colour.png")
    assert load(folder).shape.inputs == (3, 6, 5)


def test_a_photograph_with_a_preview_and_an_image_of_bits_are_images(tmp_path: Path) -> None:
    folder = write(tmp_path / "cells")
    photograph = Image.fromarray(IMAGES[0])
    photograph.save(folder / "class 0" / "more.jpg", "MPO", save_all=True, append_images=[photograph])
    Image.fromarray(IMAGES[0] > 9).save(folder / "class 1" / "bits.png")
    data = load(folder)
    assert sum(sizes(data)) == 42
    assert max(tensors_of(split)[0].max() for split in data.splits.values()) < 3


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    deep = IMAGES.astype(np.uint16) * 200
    np.savez(tmp_path / "same.npz", images=deep[np.argsort(LABELS, kind="stable")], labels=np.sort(LABELS))
    found = load(write(tmp_path / "cells", deep))
    assert_close(found.train, load(tmp_path / "same.npz").train)


@pytest.mark.parametrize(
    "names", [("train", "test", "val"), ("Training", "testing", "Validation"), ("TRAIN", "Test", "valid")]
)
def test_folders_may_be_splits(tmp_path: Path, names: tuple[str, str, str]) -> None:
    training, test, validation = names
    write(tmp_path / training, IMAGES[:24], LABELS[:24])
    write(tmp_path / test, IMAGES[24:], LABELS[24:])
    data = load(tmp_path)
    assert sizes(data) == [21, 3, 16]
    write(tmp_path / validation, IMAGES[:8], LABELS[:8])
    data = load(tmp_path)
    assert sizes(data) == [24, 8, 16]
    pixels = IMAGES[:24].astype(np.float64)
    expected = (IMAGES[24:] - pixels.mean()) / pixels.std()
    inputs, _ = by_label(torch.from_numpy(expected).float(), torch.from_numpy(LABELS[24:]))
    assert_close(data.test[0][:, 0], inputs)


def test_masks_are_found_by_their_place(tmp_path: Path) -> None:
    """Two folders with files of the same names: every mask is its image, brighter than the middle."""
    for number, picture in enumerate(IMAGES):
        for name, values in (("images", picture), ("masks", (picture > 128).astype(np.uint8))):
            folder = tmp_path / name / f"plate {number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            ending = "png" if name == "images" else "bmp"
            Image.fromarray(values).save(folder / f"{number // 2}.{ending}")
    middle = (128.5 - IMAGES.mean()) / IMAGES.std()
    for inputs, masks in map(tensors_of, load(tmp_path, "segment").splits.values()):
        assert torch.equal((inputs[:, 0] > middle).long(), masks)


def tensors_of(split: Any) -> tuple[Tensor, Tensor]:
    assert isinstance(split, tuple)
    return split


def test_a_rare_class_is_trained_with(tmp_path: Path) -> None:
    """Each number is rare: wherever the split would put it, one of them is in the training split."""
    for place in range(40):
        labels = np.arange(40) % 2
        labels[place] = 7
        np.savez(tmp_path / "rare.npz", images=IMAGES, labels=labels)
        data = load(tmp_path / "rare.npz")
        _, targets = tensors_of(data.train)
        assert sizes(data) == [28, 4, 8]
        assert (targets == 2).sum() == 1


def test_masks_are_segmented(tmp_path: Path) -> None:
    masks = (IMAGES > 128).astype(np.uint8)
    masks[0, 0] = 255
    for name, pictures in (("images", IMAGES), ("masks", masks)):
        (tmp_path / name).mkdir()
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / name / f"{number:03}.png")
    data = load(tmp_path, "segment")
    np.savez(tmp_path / "same.npz", images=IMAGES, masks=masks)
    same = load(tmp_path / "same.npz", "segment")
    assert_close(data.train, same.train)
    assert data.task == Segmentation(2)
    assert data.shape.dense
    every = torch.cat([split[1] for split in data.splits.values() if isinstance(split, tuple)])
    assert (every == -100).sum() == 5
    (tmp_path / "masks" / "003.png").unlink()
    with pytest.raises(DataError, match=r"003\.png: has no mask of its name"):
        load(tmp_path, "segment")


def test_values_are_regressed(tmp_path: Path) -> None:
    values = RANDOM.normal((5, 3e6), (2, 1e6), (40, 2))
    values[3, 1] = np.nan
    np.savez(tmp_path / "values.npz", images=IMAGES, targets=values)
    data = load(tmp_path / "values.npz", "regress", mask=True)
    _, targets = tensors_of(data.train)
    assert data.shape.outputs == 2
    # Each by itself, whatever its unit.
    assert_close(targets.nanmean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert_close(targets.square().nanmean(0), torch.ones(2), atol=1e-5, rtol=0)
    assert data.task == Regression(1.0, "standard deviations", missing=True)
    spread = tensors_of(data.test)[1].square().nanmean().sqrt().item()
    assert data.baseline == ("the training mean", pytest.approx(spread))
    np.savez(tmp_path / "dense.npz", inputs=IMAGES[:, None], targets=IMAGES[:, None] / 9)
    dense = load(tmp_path / "dense.npz", "regress")
    assert dense.shape.dense
    assert_close(dense.train[0], dense.train[1], atol=0.02, rtol=0)
    np.savez(tmp_path / "one.npz", inputs=IMAGES, targets=values[:, 0])
    line = load(tmp_path / "one.npz", "regress")
    task = line.task
    assert isinstance(task, Regression)
    assert task.scale == pytest.approx(values[:, 0].std(), rel=0.2)
    assert line.baseline == (
        "the training mean",
        pytest.approx(task.scale * tensors_of(line.test)[1].square().mean().sqrt().item()),
    )
    assert (line.shape.inputs, line.train[1].shape) == ((6, 5), (28, 1))


def test_npz_may_have_splits(tmp_path: Path) -> None:
    """As MedMNIST's files and Keras's."""
    halves = {"images": (IMAGES[:24], IMAGES[24:]), "labels": (LABELS[:24, None], LABELS[24:, None])}
    medical = {f"{s}_{n}": of[i] for n, of in halves.items() for i, s in enumerate(("train", "test"))}
    keras = {
        f"{x}_{s}": medical[f"{s}_{n}"] for x, n in zip("xy", halves, strict=True) for s in ("train", "test")
    }
    found = []
    for name, arrays in (("medical", medical), ("keras", keras)):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        found.append(load(tmp_path / f"{name}.npz"))
    assert_close(found[0].train, found[1].train)
    assert sizes(found[0]) == [21, 3, 16]
    np.savez(tmp_path / "three.npz", **medical, val_images=IMAGES[:5], val_labels=LABELS[:5])
    assert sizes(load(tmp_path / "three.npz")) == [24, 5, 16]


def test_moves_stay_what_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "go.npz", images=IMAGES[:, :5], labels=np.arange(40) % 20 + 5)
    data = load(tmp_path / "go.npz", moves=True)
    assert data.shape.outputs == 25
    assert {int(t) for _, targets in (data.train, data.test) for t in targets} <= set(range(5, 25))
    np.savez(tmp_path / "go.npz", images=IMAGES[:, :5], labels=np.arange(40))
    with pytest.raises(DataError, match="labels from 0 to 39 are no places of 25"):
        load(tmp_path / "go.npz", moves=True)


MODULE = """
import random

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

class Squares(Dataset):
    def __init__(self, n, noise=None):
        self.n, self.noise = n, noise

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        x = torch.full((1, 6, 6), float(i))
        if self.noise == "torch":
            x = x + torch.rand(())
        if self.noise == "numpy":
            x = x + np.random.rand()
        if self.noise == "python":
            x = x + random.random()
        return x.float(), i % 3

class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1, 6, 6), 0

def two(): return Squares(30), Squares(12)
def three(): return Squares(30), Squares(6), Squares(12)
def one(): return Squares(40)
def tensors(): return tuple((torch.randn(n, 2, 7), torch.arange(n) % 2) for n in (9, 4))
def values(): return tuple((torch.randn(n, 2, 7), torch.randn(n, 1, 7)) for n in (9, 4))
def stream(): return Stream()
def number(): return 3
def fails(): raise OSError("disk gone")
def broken(): return [None] * 20, [None] * 20
class Rare(Squares):
    def __init__(self, n, rare, dense=False, late=False, hole=False):
        super().__init__(n)
        self.rare, self.dense, self.late, self.hole = rare, dense, late, hole
    def __getitem__(self, i):
        if self.late and i == 2001:
            raise OSError("disk gone")
        label = self.rare.get(i, i % 2) if isinstance(self.rare, dict) else i % 2
        x = torch.randn(1, 6, 6)
        if self.hole and i in self.rare:
            x[0, 3, 4] = torch.nan
        return x, torch.full((6, 6), label) if self.dense else label

RARE = dict.fromkeys((7, 13, 19, 25, 31), 2)
def three_rare(dense): return Rare(2500, RARE, dense), Rare(40, {}, dense), Rare(300, {5: 3}, dense)
def rare_classify(): return three_rare(False)
def rare_segment(): return three_rare(True)
def late_alone(): return Rare(2500, {}, late=True)
def mappings(): return [{"image": torch.zeros(1, 6, 6), "label": i % 2} for i in range(20)], Squares(9)
def late(): return Rare(2500, {}, late=True), Rare(30, {}), Rare(30, {})
def sizes(): return [(torch.zeros(1, 6 + i % 2, 6), 0) for i in range(20)], Squares(9)
def one_each(): return Squares(20), Squares(1)
class Unsized:
    def __getitem__(self, i): return torch.zeros(1, 6, 6), 0
    def __len__(self): raise TypeError("endless")
def no_length(): return Unsized(), Squares(9)
def exits(): raise SystemExit(7)
def scalars():
    pairs = [(torch.full((1, 6, 6), i / 20), i / 20) for i in range(40)]
    return pairs, pairs[::3]
def floats(): return tuple((torch.randn(n, 2, 7), torch.randn(n)) for n in (9, 4))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_data.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_data", raising=False)
    return "my_data"


@pytest.mark.parametrize(
    ("name", "expected"), [("two", [27, 3, 12]), ("three", [30, 6, 12]), ("one", [28, 4, 8])]
)
def test_a_data_set_of_ones_own(module: str, name: str, expected: list[int]) -> None:
    data = load(f"{module}:{name}")
    assert sizes(data) == expected
    assert (data.shape.inputs, data.shape.outputs) == ((1, 6, 6), 3)
    inputs, targets = batch(data.train, torch.tensor([2, 0]))
    assert_close(inputs[:, 0, 0, 0].long() % 3, targets)
    set_apart = (
        "An eighth of the training split is set apart for validation; return (train, validation, test)"
    )
    assert any(note.startswith(set_apart) for note in data.notes) == (name == "two")
    everything = torch.cat([batch(split, torch.arange(count(split)))[0] for split in data.splits.values()])
    assert len(everything) == sum(expected)


def test_tensors_and_values_of_ones_own(module: str) -> None:
    assert load(f"{module}:tensors").shape.inputs == (2, 7)
    found = load(f"{module}:values", "regress")
    assert (found.shape.outputs, found.shape.dense) == (1, True)
    found = load(f"{module}:floats", "regress")
    assert (found.shape.outputs, found.shape.dense) == (1, False)


def test_every_sample_is_looked_at_before_training(module: str) -> None:
    """The third class is in five of 2,500 samples, and the test split has a fourth."""
    for task in ("classify", "segment"):
        data = load(f"{module}:rare_{task}", task)
        assert data.shape.outputs == 4
        assert samples.survey("train", data.train).classes == {0, 1, 2}
        assert checksum(data.train) != checksum(sys.modules[module].Rare(2500, {8}, task == "segment"))
    assert data.task == Segmentation(4)
    with pytest.raises(
        DataError, match=r"my_data:late, train: sample 2001 cannot be read, OSError: disk gone; mend"
    ):
        load(f"{module}:late")
    with pytest.raises(
        DataError, match=r"1 of 9216 values are NaN or infinite, the first at index \(2001, 0, 3, 4\)"
    ):
        samples.check("train", samples.Named("train", sys.modules[module].Rare(2500, {2001}, hole=True)))


def test_scalars_are_regressed_whatever_has_them(module: str) -> None:
    """Python's numbers are float64, and a network's output for each of them is (N, 1)."""
    data = load(f"{module}:scalars", "regress")
    study = compare(
        *(partial(small, data.shape), data.train, data.test),
        **{"validation": data.validation, "task": data.task, "tyings": ["tied"], "seeds": 1},
        recipe=Recipe(epochs=20, batch_size=10, learning_rate=0.01),
    )
    assert study.rows[0].error.mean < 0.5 * np.std(np.arange(40) / 20)


@pytest.mark.parametrize("noise", ["torch", "numpy", "python"])
def test_what_a_data_set_draws_is_drawn_alike_and_changes_nothing_outside(module: str, noise: str) -> None:
    load(f"{module}:two")
    squares = sys.modules[module].Squares(20, noise)
    before = torch.get_rng_state()
    assert checksum(squares) == checksum(squares) != checksum(sys.modules[module].Squares(20))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(batch(squares, torch.arange(9))[0], batch(squares, torch.arange(9))[0])


@pytest.mark.parametrize(
    ("name", "task", "said"),
    [
        ("stream", "classify", "an IterableDataset cannot be shuffled alike for every tying; index it"),
        (
            "number",
            "classify",
            r"must return a Dataset, \(train, test\) or \(train, validation, test\), not int",
        ),
        (
            "broken",
            "classify",
            "broken, train: samples must be pairs .input, target., not NoneType; return the",
        ),
        (
            "mappings",
            "classify",
            "mappings, train: samples must be pairs .input, target., not dict; return the",
        ),
        (
            "late_alone",
            "classify",
            "^my_data:late_alone: sample 2001 cannot be read, OSError: disk gone; mend[^;]*$",
        ),
        ("sizes", "classify", "my_data:sizes, train: samples must be pairs .input, target., all of one size"),
        ("one_each", "classify", "test has one sample; a study needs two at least"),
        ("no_length", "classify", "my_data:no_length, train: has no length, TypeError"),
        ("exits", "classify", "data=my_data:exits: the factory failed, SystemExit: 7"),
        ("floats", "classify", "targets to classify must be whole numbers; targets.long"),
        ("tensors", "regress", "targets to regress must be floating-point numbers; targets.float"),
    ],
)
def test_data_sets_that_cannot_be_used(module: str, name: str, task: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load(f"{module}:{name}", task)


def test_a_factory_that_fails_says_so(module: str) -> None:
    with pytest.raises(ValueError, match=r"data=my_data:fails: the factory failed, OSError: disk gone"):
        load(f"{module}:fails")
    with pytest.raises(ValueError, match=r"data=my_data:none: my_data has no function none; it has"):
        load(f"{module}:none")


def _uneven(folder: Path) -> Path:
    write(folder)
    Image.fromarray(IMAGES[0, :, :4]).save(folder / "class 1" / "small.png")
    return folder


def _no_image(folder: Path) -> Path:
    write(folder)
    (folder / "class 1" / "text.png").write_text("not a picture")
    return folder


def _in(*names: str, images: Any = IMAGES) -> Callable[[Path], Path]:
    """Folders of classes in folders of ``names``."""

    def make(folder: Path) -> Path:
        for name in names:
            write(folder / name, images)
        return folder

    return make


def _also(name: str, image: Any, **options: Any) -> Callable[[Path], Path]:
    """A folder of classes, with one image more."""

    def make(folder: Path) -> Path:
        write(folder)
        Image.fromarray(image).save(folder / "class 1" / name, **options)
        return folder

    return make


def _deep(folder: Path) -> Path:
    write(folder)
    content = RANDOM.integers(0, 2**16, (6, 5, 3)).astype(">u2").tobytes()
    (folder / "class 1" / "deep.ppm").write_bytes(b"P6 5 6 65535\n" + content)
    return folder


def _deep_png(folder: Path) -> Path:
    """Pillow reads them, and writes none: three numbers of 16 bits for each place."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    write(folder)
    rows = RANDOM.integers(0, 2**16, (6, 15)).astype(">u2")
    head = struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    content = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (folder / "class 1" / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return folder


def _masks(*names: str) -> Callable[[Path], Path]:
    """Images 0.png and 1.png, and masks of these names, of 0 and 255."""

    def make(folder: Path) -> Path:
        for kind, files in (("images", ("0.png", "1.png")), ("masks", names)):
            for name in files:
                (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((IMAGES[0] > 9).astype(np.uint8) * 255).save(folder / kind / name)
        return folder

    return make


def _only_in_test(folder: Path) -> Path:
    write(folder / "train")
    write(folder / "test")
    (folder / "test" / "class 1").rename(folder / "test" / "mitosis")
    return folder


MORE = Image.fromarray(IMAGES[1])


def _empty_class(folder: Path) -> Path:
    (write(folder) / "nothing").mkdir()
    return folder


BAD: dict[str, tuple[Callable[[Path], Path], Any, str]] = {
    "no test": (
        _in("train", "val"),
        "classify",
        "has train and val, .* but no test; a study needs train and",
    ),
    "no test, in capitals": (_in("Train", "VALID"), "classify", "has Train and VALID, .* but no test"),
    "no train": (_in("testing"), "classify", "has testing, .* but no train; "),
    "a split beside classes": (_in("test", "cats"), "classify", "has test, .* but no train; "),
    "two of a split": (_in("train", "Training", "test"), "classify", "both mean train; keep one"),
    "only in test": (
        _only_in_test,
        "classify",
        "test: the class mitosis is not in the training split; leave",
    ),
    "pages": (
        _also("pages.tif", IMAGES[0], save_all=True, append_images=[MORE, MORE]),
        "classify",
        r"pages\.tif: holds 3 images; save each as a file of its own",
    ),
    "16 bits among 8": (
        _also("deep.png", IMAGES[0].astype(np.uint16) * 200),
        "classify",
        r"deep\.png: holds numbers of 16 bits, and class 0/000\.png of 8 bits, on another scale",
    ),
    "16 bits in colour": (_deep, "classify", r"deep\.ppm: has 16 bits for each channel, of which 8"),
    "16 bits in colour, png": (_deep_png, "classify", r"deep\.png: has 16 bits for each channel, of which 8"),
    "masks elsewhere": (_masks("a/0.png", "1.png"), "segment", r"0\.png: has no mask of its name .*: 0\.png"),
    "two masks": (_masks("0.png", "0.bmp", "1.png"), "segment", r"has the name of 0\.bmp but for the ending"),
    "sizes": (
        _uneven,
        "classify",
        r"small\.png: is 4×6, and class 0/000\.png is 5×6; a bias that knows its place",
    ),
    "no image": (_no_image, "classify", r"text\.png: cannot be read as an image"),
    "empty": (lambda folder: folder, "classify", "has no images in folders, one for each class"),
    "an empty class": (
        _empty_class,
        "classify",
        r"nothing holds no images \(\.png, .*: it is no class; fill",
    ),
    "no masks": (write, "segment", "needs the folders images and masks"),
    "values": (write, "regress", "has no values to regress"),
    "a forecast": (write, "forecast", "is no Zarr store; a forecast takes NetCDF, Zarr or npz"),
}


@pytest.mark.parametrize("case", BAD)
def test_folders_that_cannot_be_used(tmp_path: Path, case: str) -> None:
    make, task, said = BAD[case]
    with pytest.raises(DataError, match=said):
        load(make(tmp_path), task, lead=1 if task == "forecast" else None)


BAD_ARRAYS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "mask of another size": ({"masks": IMAGES[:, :5] > 9}, "segment", "each place needs one"),
    "one class": ({"masks": IMAGES * 0}, "segment", "there is one class alone; a segmentation needs two$"),
    "0 and 255": (
        {"masks": (IMAGES > 9) * np.uint8(255)},
        "segment",
        "one class alone; a segmentation needs two; 255 means that there is no label: where it is a class",
    ),
    "one value alike": ({"targets": np.eye(40)[:, :2] * [1, 0]}, "regress", "value 1 of 2, are all alike"),
    "fractions": ({"masks": IMAGES / 2}, "segment", "masks must be whole numbers"),
    "all alike": ({"targets": np.ones(40)}, "regress", "the training targets are all alike"),
    "NaN": ({"targets": np.full(40, np.nan)}, "regress", "every target is missing"),
    "shape": ({"targets": RANDOM.random((40, 2, 3))}, "regress", r"must be \(N,\), \(N, T\), or"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_cannot_be_used(tmp_path: Path, case: str) -> None:
    arrays, task, said = BAD_ARRAYS[case]
    np.savez(tmp_path / "data.npz", images=IMAGES, **arrays)
    with pytest.raises(DataError, match=said):
        load(tmp_path / "data.npz", task)


def test_a_task_wants_what_it_wants() -> None:
    for task, options, said in (
        ("sing", {}, "task: 'sing': must be one of classify, regress, segment, forecast"),
        ("classify", {"lead": 3}, "lead: 3: only a forecast has one; the task is classify"),
        ("segment", {"variable": "t"}, "variable: t: only a forecast has one"),
        (
            "classify",
            {"mask": True},
            "missing: mask: the targets of a regression or a forecast can be missing",
        ),
        ("segment", {}, "data: none: without data there are the digits, to classify and not to segment"),
        ("forecast", {"lead": 3}, "task: forecast: needs data with a field"),
    ):
        with pytest.raises(DataError, match=said):
            load(None, task, **options)  # pyright: ignore
