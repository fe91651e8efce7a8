"""What the study reads: splits, normalisation, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import itertools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from convbias.errors import DataError
from convbias.study import Data, load
from convbias.study.data import classification, split_at_random
from convbias.study.forecast import HISTORY, STEPS_A_DAY, Series, forecast
from convbias.study.models import small

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 255, (40, 6, 5), dtype=np.uint8)
LABELS = np.arange(40, dtype=np.int64) % 4
FIELD = RANDOM.normal(280, 5, (300, 4, 6)).astype(np.float32)


def halves(data: Data) -> list[tuple[Tensor, Tensor]]:
    """The three splits, tensors all."""
    return [split for split in data.splits.values() if isinstance(split, tuple)]


def classified(name: str, images: Tensor, labels: Tensor) -> Data:
    return classification(name, split_at_random(name, images, labels))


def idx(array: np.ndarray[Any, Any], kind: int = 0x08, dtype: str = ">u1") -> bytes:
    head = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(dtype).tobytes()


def test_digits_are_all_there_and_split_always_alike() -> None:
    data, again = load(None), load(None)
    sizes = [len(inputs) for inputs, _ in halves(data)]
    assert sizes == [1258, 180, 359]
    assert sum(sizes) == 1797
    assert data.train[0].shape[1:] == (1, 8, 8)
    assert_close(data.train[0].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert_close(data.train[0].std(), torch.tensor(1.0), atol=1e-3, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(halves(data)[2], halves(again)[2], strict=True))
    assert small(data.shape)(data.test[0][:2]).shape == (2, 10)


def test_each_sample_is_in_one_split_with_its_label() -> None:
    n = 50
    images = torch.arange(n).float().reshape(n, 1, 1, 1).expand(n, 1, 4, 4)
    data = classified("numbered", images, torch.arange(n) % 3)
    splits = halves(data)
    spread = images[:, 0, 0, 0].float()
    first = torch.cat([inputs[:, 0, 0, 0] for inputs, _ in splits])
    labels = torch.cat([targets for _, targets in splits])
    # Undo the normalisation, of which only the training split may know.
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    chosen = spread[order[: len(data.train[0])]]
    number = (first * chosen.std(correction=0) + chosen.mean()).round().long()
    assert number.sort().values.tolist() == list(range(n))
    assert_close(labels, number % 3)


def test_labels_are_numbered_from_zero() -> None:
    data = classified("odd", torch.randn(20, 1, 4, 4), torch.arange(20) % 2 * 7 - 3)
    assert set(torch.cat([targets for _, targets in halves(data)]).tolist()) == {0, 1}


def test_forecast_inputs_and_targets_are_what_they_say() -> None:
    steps, lead = 200, 5
    hours = torch.arange(steps) + 10.0
    field = torch.randn(steps, 3, 4) + 100
    data = forecast(Series("series", field, hours, unit="K"), lead)
    count = len(data.train[0])
    std = field[: HISTORY + count].std(correction=0)
    now, before, sine, cosine = data.train[0].unbind(1)
    at = slice(HISTORY, HISTORY + count)
    assert_close(now - before, (field[at] - field[:count]) / std, atol=1e-4, rtol=1e-4)
    angle = hours[at] * (2 * torch.pi / 24)
    assert_close(sine[:, 1, 2], angle.sin(), atol=1e-5, rtol=1e-5)
    assert_close(cosine[:, 0, 0], angle.cos(), atol=1e-5, rtol=1e-5)
    change = field[HISTORY + lead : HISTORY + lead + count] - field[at]
    scale = change.square().mean().sqrt()
    assert_close(data.train[1][:, 0], change / scale)
    # The last test target is the last step, and "nothing changes" has the error it should have.
    last = field[-len(data.test[0]) :] - field[-len(data.test[0]) - lead : -lead]
    assert data.baseline == ("persistence", pytest.approx(last.square().mean().sqrt().item(), rel=1e-4))
    assert data.task.metric == "RMSE in K"
    assert small(data.shape)(data.test[0]).shape == data.test[1].shape


def test_forecast_splits_do_not_touch() -> None:
    steps, lead = 600, 40
    field = torch.arange(steps).float()[:, None, None].expand(steps, 2, 2).square()
    data = forecast(Series("squares", field), lead)
    gap = max(STEPS_A_DAY, lead + HISTORY)
    normal = [inputs[:, 0, 0, 0] for inputs, _ in halves(data)]
    count = len(normal[0])
    seen = field[: HISTORY + count, 0, 0].repeat_interleave(4).double()
    mean, std = seen.mean(), seen.std(correction=0)
    when = [((n * std + mean).sqrt()).round().long().tolist() for n in normal]
    assert when[0][0] == HISTORY
    for earlier, later in itertools.pairwise(when):
        assert later[0] - earlier[-1] > gap
    assert when[2][-1] == steps - lead - 1


def test_a_future_value_changes_no_earlier_input() -> None:
    field = torch.randn(200, 3, 3)
    spoiled = field.clone()
    spoiled[150:] += 50
    plain, other = forecast(Series("a", field), 3), forecast(Series("b", spoiled), 3)
    assert torch.equal(plain.train[0], other.train[0])
    assert torch.equal(plain.train[1], other.train[1])


def test_npz_layouts(tmp_path: Path) -> None:
    colour = RANDOM.random((40, 6, 5, 3)).astype(np.float32)
    for name, images, channels in (
        ("plain", IMAGES, 1),
        ("last", colour, 3),
        ("first", np.moveaxis(colour, 3, 1), 3),
    ):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=LABELS[:, None])
        found = load(tmp_path / f"{name}.npz")
        assert found.train[0].shape[1:] == (channels, 6, 5)
    first, last = (load(tmp_path / f"{name}.npz").test for name in ("first", "last"))
    assert torch.equal(first[0], last[0])


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_finds_its_labels(tmp_path: Path, ending: str) -> None:
    pack: Callable[[bytes], bytes] = gzip.compress if ending else bytes
    (tmp_path / f"a-images-idx3-ubyte{ending}").write_bytes(pack(idx(IMAGES)))
    (tmp_path / f"a-labels-idx1-ubyte{ending}").write_bytes(pack(idx(LABELS)))
    np.savez(tmp_path / "same.npz", images=IMAGES, labels=LABELS)
    found, same = load(tmp_path / f"a-images-idx3-ubyte{ending}"), load(tmp_path / "same.npz")
    assert torch.equal(found.train[0], same.train[0])
    assert torch.equal(found.train[1], same.train[1])


@pytest.mark.parametrize(("kind", "dtype"), [(0x09, ">i1"), (0x0B, ">i2"), (0x0D, ">f4"), (0x0E, ">f8")])
def test_idx_of_every_type(tmp_path: Path, kind: int, dtype: str) -> None:
    numbers = RANDOM.integers(-100, 100, (40, 6, 5))
    (tmp_path / "images").write_bytes(idx(numbers, kind, dtype))
    (tmp_path / "labels").write_bytes(idx(LABELS))
    np.savez(tmp_path / "same.npz", images=numbers, labels=LABELS)
    found, same = load(tmp_path / "images"), load(tmp_path / "same.npz")
    assert_close(found.train[0], same.train[0])


def test_a_field_knows_its_hours(tmp_path: Path) -> None:
    hours = np.arange(300) + 5
    stamps = np.datetime64("2019-03-01T05", "h") + np.arange(300)
    np.savez(tmp_path / "hours.npz", t=FIELD, time=hours, latitude=np.arange(4))
    np.savez(tmp_path / "stamps.npz", t=FIELD, time=stamps)
    np.savez(tmp_path / "none.npz", t=FIELD)
    by_hours, by_stamps, without = (
        load(tmp_path / f"{name}.npz", "forecast", lead=2) for name in ("hours", "stamps", "none")
    )
    assert by_hours.train[0].shape[1] == 4
    assert_close(by_hours.train[0], by_stamps.train[0], atol=1e-6, rtol=0)
    assert torch.equal(without.train[0], by_hours.train[0][:, :2])


def _save(**arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "data.npz", **arrays)
        return folder / "data.npz"

    return write


def _bytes(content: bytes, name: str = "data-images-idx3-ubyte") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _cut_npz(folder: Path) -> Path:
    whole = _save(images=IMAGES, labels=LABELS)(folder)
    whole.write_bytes(whole.read_bytes()[:-200])
    return whole


def _with(array: np.ndarray[Any, Any], at: tuple[int, ...], value: float) -> np.ndarray[Any, Any]:
    changed = array.astype(np.float32)
    changed[at] = value
    return changed


def _zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "pictures.zip", "w") as file:
        file.writestr("a/0.png", b"\x89PNG and so on")
    return folder / "pictures.zip"


BAD_IMAGES = {
    "another zip": (_zip, r"pictures\.zip: is a zip of other files, a/0\.png among them, and no npz; unzip"),
    "channels where": (
        _save(images=np.repeat(IMAGES[..., None], 5, 3), labels=LABELS),
        r"images \(40, 6, 5, 5\) may be \(N, H, W, C\) or \(N, C, H, W\); save them as inputs",
    ),
    "only in test": (
        _save(train_images=IMAGES, train_labels=LABELS * 10, test_images=IMAGES, test_labels=LABELS + 7),
        "data.npz, test: the classes 7, 8, 9 are not in the training split; leave them out",
    ),
    "absent": (lambda folder: folder / "none.npz", "none.npz: no such file"),
    "folder": (lambda folder: folder, "has no images in folders, one for each class"),
    "NaN": (
        _save(images=_with(IMAGES, (3, 1, 2), np.nan), labels=LABELS),
        r"1 of 1200 values are NaN or infinite, the first at index \(3, 0, 1, 2\)",
    ),
    "infinity": (_save(images=_with(IMAGES, (3, 1, 2), np.inf), labels=LABELS), "NaN or infinite"),
    "no labels": (
        _save(images=IMAGES),
        r"needs the arrays 'images' or 'inputs' and 'labels' or 'targets', and has images \(40, 6, 5\)",
    ),
    "fewer labels": (_save(images=IMAGES, labels=LABELS[:30]), "40 inputs but 30 targets"),
    "labels not whole": (_save(images=IMAGES, labels=LABELS / 2), "labels must be whole numbers"),
    "one class": (_save(images=IMAGES, labels=LABELS * 0), r"all labels are \[0\]"),
    "few": (_save(images=IMAGES[:9], labels=LABELS[:9]), "9 samples; the three splits need 10"),
    "none at all": (_save(images=IMAGES[:0], labels=LABELS[:0]), "no samples"),
    "all alike": (_save(images=IMAGES * 0, labels=LABELS), "every value is 0: nothing to learn"),
    "vectors": (_save(images=IMAGES[:, 0], labels=LABELS), r"images must be .* not \(40, 5\)"),
    "complex": (_save(images=IMAGES * 1j, labels=LABELS), "images must be real numbers, not complex128"),
    "pickled": (_save(images=np.array([{}] * 40), labels=LABELS), "holds what is no plain array"),
    "cut npz": (_cut_npz, "is damaged or no npz file"),
    "not npz": (_bytes(b"nonsense", "data.npz"), "data.npz: is no npz, .* it begins with b'nonsense'"),
    "neither": (_bytes(b"\x89PNG and so on"), "is neither an npz, a NetCDF nor an IDX file"),
    "empty": (_bytes(b""), "is neither an npz, a NetCDF nor an IDX file"),
    "cut idx": (_bytes(idx(IMAGES)[:-1]), "promises 1200 bytes for .*, and 1199 follow"),
    "longer idx": (_bytes(idx(IMAGES) + b"\0"), "promises 1200 bytes for .*, and 1201 follow"),
    "cut head": (_bytes(idx(IMAGES)[:9]), "is damaged or cut short"),
    "cut gzip": (_bytes(gzip.compress(idx(IMAGES))[:-20]), "is damaged or cut short"),
    "labels given": (
        _bytes(idx(LABELS), "data-labels-idx1-ubyte"),
        "holds labels; give the file of the images",
    ),
    "labels missing": (
        _bytes(idx(IMAGES)),
        "looked for data-labels-idx1-ubyte and data-labels-idx1-ubyte.gz",
    ),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_images_that_cannot_be_used(tmp_path: Path, case: str) -> None:
    write, said = BAD_IMAGES[case]
    with pytest.raises(DataError, match=said):
        load(write(tmp_path))


BAD_FIELDS = {
    "two fields": (_save(a=FIELD, b=FIELD), 1, r"exactly one array \(time, h, w\), and has a .*, b "),
    "no field": (_save(a=FIELD[0]), 1, r"exactly one array \(time, h, w\), and has a \(4, 6\)"),
    "NaN": (_save(t=_with(FIELD, (7, 0, 1), np.nan)), 1, r"the first at index \(7, 0, 1\)"),
    "lead": (_save(t=FIELD), 0, "lead: 0: must be 1 or more"),
    "long lead": (_save(t=FIELD), 250, "300 steps are too few for a lead of 250"),
    "short": (_save(t=FIELD[:40]), 1, "40 steps are too few"),
    "still": (_save(t=FIELD[:1].repeat(300, 0)), 2, "over 2 steps its values never change"),
    "constant": (_save(t=FIELD * 0 + 3), 2, "every value is 3"),
    "infinity": (_save(t=_with(FIELD, (7, 0, 1), np.inf)), 1, r"the first at index \(7, 0, 1\)"),
    "too large": (_save(t=FIELD * 1e25), 1, "change so much that it overflows; give it in a larger unit"),
    "empty": (_save(t=FIELD[:0]), 1, r"needs a field \(time, h, w\), not \(0, 4, 6\)"),
    "times": (_save(t=FIELD, time=np.arange(299)), 1, r"time must be \(300,\) times or hours"),
    "complex": (_save(t=FIELD * 1j), 1, "t must be real numbers"),
    "another zip": (_zip, 1, "is a zip of other files"),
}


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_fields_that_cannot_be_used(tmp_path: Path, case: str) -> None:
    write, lead, said = BAD_FIELDS[case]
    with pytest.raises(DataError, match=said):
        load(write(tmp_path), "forecast", lead=lead)


def test_real_data_is_read(shared_data: Path) -> None:
    weather = load(shared_data / "era5_t2m_uk_2019_03.npz", "forecast", lead=6)
    assert weather.train[0].shape[1:] == (4, 33, 49)
    assert weather.baseline is not None
    assert weather.baseline[1] == pytest.approx(2.74, abs=0.01)
    mnist = load(shared_data / "t10k-images-idx3-ubyte.gz")
    assert mnist.train[0].shape == (7000, 1, 28, 28)
    counts: Tensor = torch.cat([targets for _, targets in halves(mnist)]).bincount()
    assert counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
