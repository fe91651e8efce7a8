"""NetCDF and Zarr: axes by the CF conventions, missing values declared or not, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from torch.testing import assert_close

from convbias.errors import DataError
from convbias.study import Data, load
from convbias.study.forecast import Series, forecast
from convbias.study.samples import count
from convbias.study.statistics import over_blocks

RANDOM = np.random.default_rng(0)
STEPS, ROWS, COLUMNS = 300, 4, 6
FIELD = RANDOM.normal(280, 5, (STEPS, ROWS, COLUMNS)).astype(np.float32)
HOURS = np.arange(STEPS)
TIME = np.datetime64("2019-03-01T05", "ns") + HOURS * np.timedelta64(1, "h")


def grid(values: Any = FIELD, dims: tuple[str, ...] = ("time", "lat", "lon"), **more: Any) -> xarray.Dataset:
    """A field as files have it: latitudes from north to south, hourly."""
    known: dict[str, Any] = {
        "time": TIME,
        "lat": ("lat", np.linspace(58, 50, ROWS), {"units": "degrees_north"}),
        "lon": ("lon", np.linspace(-10, 2, COLUMNS), {"units": "degrees_east"}),
        **more,
    }
    coordinates = {name: value for name, value in known.items() if name in dims}
    return xarray.Dataset({"t2m": (dims, values, {"units": "K"})}, coordinates)


def forecast_of(path: Path, **options: Any) -> Data:
    return load(path, "forecast", **{"lead": 3, **options})


def test_every_format_is_the_same_field(tmp_path: Path) -> None:
    found = grid()
    found.to_netcdf(tmp_path / "four.nc", engine="netcdf4")
    found.to_netcdf(tmp_path / "three.nc", engine="netcdf4", format="NETCDF3_CLASSIC")
    found.to_zarr(tmp_path / "two.zarr", zarr_format=2, consolidated=True)
    found.to_zarr(tmp_path / "three.zarr", zarr_format=3, consolidated=False)
    np.savez(tmp_path / "plain.npz", t=FIELD, time=HOURS + 5)
    same = forecast_of(tmp_path / "plain.npz")
    for name in ("four.nc", "three.nc", "two.zarr", "three.zarr"):
        data = forecast_of(tmp_path / name)
        assert data.name == f"{name}: t2m"
        assert data.task.metric == "RMSE in K"
        assert_close(data.train, same.train, atol=1e-5, rtol=1e-5)
        assert_close(data.test, same.test, atol=1e-5, rtol=1e-5)
        assert [axis.name for axis in data.axes] == ["lat", "lon"]
        assert data.axes[0].values == pytest.approx(np.linspace(58, 50, ROWS))
        assert data.axes[1].unit == "degrees_east"
        assert data.notes == ()


def test_axes_are_found_by_what_they_say_and_not_by_their_order(tmp_path: Path) -> None:
    coordinates = {
        "when": ("when", HOURS, {"units": "hours since 2019-03-01 05:00", "standard_name": "time"}),
        "north": ("north", np.linspace(0, 9, ROWS), {"axis": "Y"}),
        "east": ("east", np.linspace(0, 5, COLUMNS), {"axis": "X"}),
    }
    odd = xarray.Dataset({"t": (("east", "when", "one", "north"), FIELD.transpose(2, 0, 1)[:, :, None])})
    odd.assign_coords(coordinates).to_netcdf(tmp_path / "odd.nc")
    grid().to_netcdf(tmp_path / "plain.nc")
    assert_close(forecast_of(tmp_path / "odd.nc").train, forecast_of(tmp_path / "plain.nc").train)


def test_a_step_beside_the_time_is_not_the_time(tmp_path: Path) -> None:
    """As in files made from GRIB: the only lead of a forecast, and when it is for."""
    hour = np.timedelta64(1, "h").astype("timedelta64[ns]")
    grid().to_netcdf(tmp_path / "plain.nc")
    for dims in (("time", "step", "lat", "lon"), ("step", "time", "lat", "lon")):
        values = np.expand_dims(FIELD, dims.index("step"))
        found = grid(values, dims, step=("step", [hour]))
        found = found.assign_coords(valid_time=(("time", "step"), TIME[:, None] + hour))
        found.to_netcdf(tmp_path / "grib.nc")
        assert_close(forecast_of(tmp_path / "grib.nc").train, forecast_of(tmp_path / "plain.nc").train)


def test_latitudes_and_longitudes_may_be_maps(tmp_path: Path) -> None:
    plain = grid().drop_vars(["lat", "lon"]).rename_dims(lat="eta", lon="xi")
    north, east = np.meshgrid(np.linspace(50, 58, ROWS), np.linspace(-10, 2, COLUMNS), indexing="ij")
    maps = {
        "lat_rho": (("eta", "xi"), north + east / 9, {"standard_name": "latitude", "units": "degrees_north"}),
        "lon_rho": (("eta", "xi"), east - north / 9, {"standard_name": "longitude", "units": "degrees_east"}),
    }
    plain.assign_coords(maps).to_netcdf(tmp_path / "ocean.nc")
    grid().to_netcdf(tmp_path / "plain.nc")
    data = forecast_of(tmp_path / "ocean.nc")
    assert_close(data.train, forecast_of(tmp_path / "plain.nc").train)
    assert [(axis.name, len(axis.values)) for axis in data.axes] == [("eta", ROWS), ("xi", COLUMNS)]


def test_a_calendar_that_numpy_does_not_have(tmp_path: Path) -> None:
    time = ("time", HOURS, {"units": "hours since 2019-02-27 05:00", "calendar": "360_day"})
    grid(time=time).to_netcdf(tmp_path / "model.nc")
    grid().to_netcdf(tmp_path / "plain.nc")
    assert_close(forecast_of(tmp_path / "model.nc").train, forecast_of(tmp_path / "plain.nc").train)


def test_the_variable_is_chosen(tmp_path: Path) -> None:
    two = grid().assign(u10=grid()["t2m"] * -2, land=grid()["t2m"][0])
    two.to_netcdf(tmp_path / "two.nc")
    with pytest.raises(DataError, match=r"has 2 fields over time and space; --variable chooses of t2m, u10$"):
        forecast_of(tmp_path / "two.nc")
    with pytest.raises(DataError, match=r"has no variable t; it has t2m"):
        forecast_of(tmp_path / "two.nc", variable="t")
    chosen = forecast_of(tmp_path / "two.nc", variable="u10")
    assert chosen.name == "two.nc: u10"
    grid().assign(land=grid()["t2m"][0]).to_netcdf(tmp_path / "one.nc")
    assert_close(forecast_of(tmp_path / "one.nc").train[0][:, :2], -chosen.train[0][:, :2])


GAPS = FIELD.copy()
GAPS[5:9, 2, 3] = np.nan
GAPS[:, 0, 0] = np.nan


def test_declared_missing_values_are_masked_and_filled_with_the_mean(tmp_path: Path) -> None:
    packed = {"dtype": "int16", "scale_factor": 0.001, "add_offset": 280.0, "_FillValue": -32768}
    for name, encoding in (("nan", {}), ("number", {"_FillValue": -999.0}), ("packed", packed)):
        grid(GAPS).to_netcdf(tmp_path / f"{name}.nc", encoding={"t2m": encoding})
        data = forecast_of(tmp_path / f"{name}.nc")
        inputs, targets = data.train
        assert torch.isfinite(inputs).all()
        assert (inputs[:, :2, 0, 0] == 0).all()
        # Steps 3 on are trained on: at 5 to 8 the value is missing, and so is the target 3 before.
        missing = targets[:, 0].isnan().nonzero().tolist()
        assert [time for time, *place in missing if place == [2, 3]] == list(range(6))
        assert {tuple(place) for _, *place in missing} == {(0, 0), (2, 3)}
        (note,) = data.notes
        assert note.startswith("4.2% of the values are missing; in the inputs they are the training mean, 2")
        known = FIELD[3:][: len(inputs)][~np.isnan(GAPS[3:][: len(inputs)])]
        assert abs(known.mean() - float(note.split("mean, ")[1].split(",")[0])) < 0.1
        error = data.task.error(data.task.tallies(torch.zeros_like(data.test[1]), data.test[1]).sum(0))
        assert data.baseline == ("persistence", pytest.approx(error.item()))


def test_undeclared_nan_is_refused_unless_it_is_to_be_masked(tmp_path: Path) -> None:
    undeclared = {"none": {"_FillValue": None}, "other": {"_FillValue": -999.0}}
    for name, encoding in undeclared.items():
        path = tmp_path / f"{name}.nc"
        found = grid(np.where(np.isnan(GAPS), 0, GAPS).astype(np.float32))
        found.to_netcdf(path, encoding={"t2m": encoding}, engine="netcdf4")
        _overwrite(path, GAPS)
        with pytest.raises(DataError, match=r"t2m has NaN that .* --missing mask leaves it out"):
            forecast_of(path)
        grid(GAPS).to_netcdf(tmp_path / "declared.nc")
        masked = forecast_of(path, mask=True)
        torch.testing.assert_close(
            masked.train, forecast_of(tmp_path / "declared.nc").train, equal_nan=True, atol=1e-4, rtol=1e-4
        )


def _overwrite(path: Path, values: np.ndarray[Any, Any]) -> None:
    import netCDF4

    with netCDF4.Dataset(path, "a") as file:
        variable = file["t2m"]
        variable.set_auto_mask(False)
        variable[:] = values


def test_npz_takes_mask_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "gaps.npz", t=GAPS)
    with pytest.raises(DataError, match="values are NaN or infinite"):
        forecast_of(tmp_path / "gaps.npz")
    assert forecast_of(tmp_path / "gaps.npz", mask=True).train[1].isnan().any()


@pytest.mark.parametrize("hours", [1, 3, 6])
def test_days_are_the_files_days(hours: int) -> None:
    when = torch.arange(400) * float(hours) + 5
    data = forecast(Series("t", torch.randn(400, 3, 3), when), 2)
    first = 400 - 2 - count(data.test)
    expected = (when[first : 400 - 2] / 24).floor().long()
    assert data.blocks is not None
    assert torch.equal(data.blocks, expected)
    gap = 400 - sum(map(count, data.splits.values())) - 3 - 2
    assert gap == 2 * max(24 // hours, 5)
    assert f"2 ahead ({2 * hours} hours)" in data.summary
    assert data.block == "a day"


@pytest.mark.parametrize(
    ("hours", "lead", "block"), [(24, 5, "5 days"), (6, 11, "3 days"), (None, 30, "2 days")]
)
def test_forecasts_that_overlap_are_in_blocks_as_long_as_the_lead(
    hours: int | None, lead: int, block: str
) -> None:
    """Errors that are sums over the lead of what is drawn anew at every step, with a mean of 0.

    With blocks of a day the intervals missed it in 40% of all cases at a lead of 5 days.
    """
    when = None if hours is None else torch.arange(2000) * float(hours)
    data = forecast(Series("t", torch.randn(2000, 2, 2), when), lead)
    assert data.blocks is not None
    assert data.block == block
    generator = torch.Generator().manual_seed(0)
    missed = 0
    for _ in range(100):
        drawn = torch.randn(count(data.test) + lead, generator=generator).double()
        errors = drawn.unfold(0, lead, 1)[: count(data.test)].sum(1)
        tallies = torch.stack([errors, torch.ones_like(errors)], 1)[None]
        found = over_blocks(lambda sums: sums[..., 0] / sums[..., 1], tallies, 0 * tallies + 1, data.blocks)
        assert found is not None
        missed += not found.low <= -1 <= found.high
    assert missed < 20


BEYOND = r"1 of 7200 values of t2m are beyond 1e\+30, the first "


def spoilt(value: float) -> np.ndarray[Any, Any]:
    values = FIELD.copy()
    values[5, 1, 2] = value
    return values


def test_a_valid_range_declares_what_is_beyond_missing(tmp_path: Path) -> None:
    """In the packed numbers where they are of their type, else in the unpacked ones."""
    high = float(np.quantile(FIELD, 0.99))
    packed = {"dtype": "int16", "scale_factor": 0.001, "add_offset": 280.0, "_FillValue": -32768}
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "max": ({"valid_max": np.float32(high)}, {}),
        "range": ({"valid_range": np.array([0, high], np.float32)}, {}),
        "packed": ({"valid_max": np.int16(round((high - 280) * 1000))}, packed),
        "unpacked": ({"valid_max": np.float32(high)}, packed),
        "both": ({"valid_min": np.float32(0), "valid_max": np.float32(high)}, {}),
    }
    grid(np.where(high < FIELD, np.nan, FIELD)).to_netcdf(tmp_path / "plain.nc")
    plain = forecast_of(tmp_path / "plain.nc")
    for name, (attributes, encoding) in cases.items():
        found = grid()
        found["t2m"].attrs.update(attributes)
        found.to_netcdf(tmp_path / f"{name}.nc", encoding={"t2m": encoding})
        data = forecast_of(tmp_path / f"{name}.nc")
        assert_close(data.train, plain.train, equal_nan=True, atol=1e-2, rtol=1e-2)
        assert data.notes[0].startswith("1.0% of the values are missing")


def test_a_gap_in_time_is_not_forecast_over(tmp_path: Path) -> None:
    """The field is its own hour: each change is the lead, each look back three hours."""
    hours = np.array([hour for hour in range(400) if hour % 17])
    field = np.broadcast_to(hours[:, None, None], (len(hours), 2, 2)).astype(np.float32)
    for lead in (1, 3, 20):
        data = forecast(Series("t", torch.from_numpy(field.copy()), torch.from_numpy(hours).double()), lead)
        trained = field[: round(0.67 * len(hours))].astype(np.float64)
        for inputs, targets in data.splits.values():
            assert_close(targets, torch.ones_like(targets))
            apart = (inputs[:, 0] - inputs[:, 1]) * trained.std()
            assert_close(apart, torch.full_like(apart, 3.0), atol=1e-3, rtol=0)
        (note,) = data.notes
        assert note.startswith("Of the steps in time, 23 are missing; ")
        whole = set(hours.tolist())
        complete = sum(hour - 3 in whole and hour + lead in whole for hour in whole)
        left_out = sum(3 < hour <= hours[-1] - lead for hour in whole) - complete
        assert f" {left_out} forecasts " in note


def test_months_are_steps_of_one(tmp_path: Path) -> None:
    time = np.datetime64("1990-01") + np.arange(STEPS)
    grid(time=time.astype("datetime64[ns]")).to_netcdf(tmp_path / "months.nc")
    data = forecast_of(tmp_path / "months.nc", lead=20)
    assert sum(map(count, data.splits.values())) == STEPS - 3 - 20 - 2 * 23
    assert data.notes == ()


BAD: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "no netcdf": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n and so on"), {}, "is damaged, or no NetCDF"),
    "cut": (
        lambda p: (grid().to_netcdf(p), p.write_bytes(p.read_bytes()[:4000])),
        {},
        "data.nc: .*damaged|read",
    ),
    "lead": (lambda p: grid().to_netcdf(p), {"lead": 299}, "300 steps are too few for a lead of 299"),
    "a level more": (
        lambda p: grid(np.stack([FIELD] * 2, 1), ("time", "level", "lat", "lon")).to_netcdf(p),
        {},
        r"t2m also has \{'level': 2\}; choose one place there first, as in xarray",
    ),
    "no time": (
        lambda p: grid(FIELD, ("step", "lat", "lon")).to_netcdf(p),
        {"variable": "t2m"},
        r"t2m .* has no axis of time that the CF conventions tell; name the dimensions time, lat and lon",
    ),
    "no field": (
        lambda p: grid(FIELD[0], ("lat", "lon")).to_netcdf(p),
        {},
        r"has no field over time and space by the CF conventions; it has t2m .*or give .* the attribute axis",
    ),
    "infinity": (
        lambda p: grid(spoilt(np.inf)).to_netcdf(p),
        {},
        BEYOND + r"inf at index \(5, 1, 2\); declare",
    ),
    "minus infinity": (
        lambda p: grid(spoilt(-np.inf)).to_netcdf(p),
        {"mask": True},
        BEYOND + "-inf at index",
    ),
    "a fill value": (lambda p: grid(spoilt(9.97e36)).to_netcdf(p), {}, BEYOND + r"9\.97e\+36 at index"),
    "uneven time": (
        lambda p: grid(time=TIME + (HOURS > 9) * np.timedelta64(30, "m")).to_netcdf(p),
        {},
        r"time goes on by 1\.5 hours after step 9 and mostly by 1, which is no whole number of steps",
    ),
    "text": (
        lambda p: p.write_text("hello world, not netcdf"),
        {},
        r"is no npz, nor NetCDF .* begins with b'hello",
    ),
    "time backwards": (
        lambda p: grid().isel(time=slice(None, None, -1)).to_netcdf(p),
        {},
        "time does not go on after step 0; sort it",
    ),
    "all missing": (lambda p: grid(FIELD * np.nan).to_netcdf(p), {}, "every value is missing"),
    "classify": (lambda p: grid().to_netcdf(p), {"task": "classify"}, "is a field on a grid, for the task"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_field_is_refused(tmp_path: Path, case: str) -> None:
    write, options, said = BAD[case]
    path = tmp_path / "data.nc"
    write(path)
    known: dict[str, Any] = {"task": "forecast", "lead": 3, **options}
    with pytest.raises(DataError, match=said):
        load(path, known.pop("task"), **({} if "task" in options else known))
