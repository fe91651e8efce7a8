"""NetCDF and Zarr through xarray: a field on a grid over time, its axes found by the CF conventions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, extra
from ..data import Axis
from ..forecast import Series

with extra("study"):
    import cf_xarray  # noqa: F401  # pyright: ignore[reportUnusedImport]  # gives xarray its .cf
    import xarray

# What the axes of a field are called in the CF conventions, and how a coordinate tells that it is one.
AXES: Final[Mapping[str, str]] = {"T": "time", "Y": "latitude", "X": "longitude"}
CURVED: Final[Mapping[str, int]] = {"Y": 0, "X": 1}
NAME_THEM: Final = (
    "name the dimensions time, lat and lon, or give their coordinates the attribute axis: T, Y, X"
)
# Nothing that is measured; what stands for missing values is often beyond, as 9.97e36, netCDF's own.
UNLIKELY: Final = 1e30


def series(path: Path, variable: str | None, mask: bool) -> Series:
    """The field ``variable``, or the file's only one over time and two axes of space.

    Values that the file declares missing, or out of its valid range, are missing; NaN that it does not
    declare is, too, with ``mask``.

    Raises DataError for what cannot be read, or is no such field.
    """
    with _opened(path, masked=True) as found, _opened(path, masked=False) as raw:
        name = _chosen(path.name, found, variable)
        axes = _axes(found, name)
        try:
            field = _on_axes(path.name, _in_range(found[name], raw[name]), axes)
            values = np.asarray(field.values, dtype=np.float32)
            stored = raw[name].values
        except DataError:
            raise
        except Exception as error:
            raise DataError(path.name, f"{name} cannot be read ({error})") from error
        is_float = np.issubdtype(stored.dtype, np.floating)
        undeclared = is_float and np.isnan(stored).any() and not np.isnan(_declared(raw[name])).any()
        if undeclared and not mask:
            raise DataError(
                path.name,
                f"{name} has NaN that the file does not declare as missing; --missing mask leaves it out",
            )
        odd = ~(np.abs(values) < UNLIKELY) & ~np.isnan(values)
        if odd.any():
            at = tuple(map(int, np.argwhere(odd)[0]))
            raise DataError(
                path.name,
                f"{int(odd.sum())} of {odd.size} values of {name} are beyond {UNLIKELY:g}, the first "
                f"{values[at]:g} at index {at}; declare them missing (by _FillValue or valid_max) "
                "or cut them out",
            )
        unit = str(field.attrs.get("units", ""))
        space = tuple(_axis(found, axes[axis]) for axis in "YX")
        return Series(
            f"{path.name}: {name}",
            torch.from_numpy(values),
            _hours(path.name, found[axes["T"]]),
            unit,
            space,
            may_miss=True,
        )


def _opened(path: Path, *, masked: bool) -> Any:
    options: dict[str, Any] = {"engine": "zarr"} if path.is_dir() else {}
    try:
        with warnings.catch_warnings():
            # About metadata that is not consolidated, and times that pandas cannot hold.
            warnings.simplefilter("ignore")
            return xarray.open_dataset(path, mask_and_scale=masked, **options)
    except Exception as error:
        raise DataError(path.name, f"is damaged, or no NetCDF or Zarr ({error})") from error


def _chosen(name: str, found: Any, variable: str | None) -> str:
    contents = ", ".join(f"{key} {dict(array.sizes)}" for key, array in found.data_vars.items()) or "none"
    if variable is not None:
        if variable not in found.data_vars:
            raise DataError(name, f"has no variable {variable}; it has {contents}")
        return variable
    fields = [str(key) for key in found.data_vars if not _lacking(_axes(found, str(key)))]
    if not fields:
        raise DataError(
            name,
            f"has no field over time and space by the CF conventions; it has {contents}; if one of these is, "
            f"{NAME_THEM}",
        )
    if len(fields) > 1:
        raise DataError(
            name, f"has {len(fields)} fields over time and space; --variable chooses of {', '.join(fields)}"
        )
    return fields[0]


def _lacking(axes: Mapping[str, str]) -> list[str]:
    return [AXES[axis] for axis in AXES if axis not in axes]


def _axes(found: Any, variable: str) -> dict[str, str]:
    """The dimensions of ``variable`` that are its T, Y and X axes, as far as the file tells.

    Of several, time is the one of that name, or else the longest: a forecast's only step is none.
    """
    told, own = found.cf.guess_coord_axis(), found[variable].dims

    def likely(dim: Any) -> tuple[bool, bool, int]:
        return found.sizes[dim] > 1, str(dim).lower() == AXES["T"], found.sizes[dim]

    axes: dict[str, str] = {}
    for axis, coordinate in AXES.items():
        keys = [*told.cf.axes.get(axis, []), *told.cf.coordinates.get(coordinate, [])]
        dims = [key for key in keys if key in own]
        dims += [key for key in own if str(key).lower() in (coordinate, coordinate[:3])]
        if axis in CURVED:  # latitudes and longitudes of two axes, as of an ocean model (CF conventions, 5.2)
            curved = [found[key].dims for key in keys if key in found.variables and found[key].ndim == 2]
            dims += [of[CURVED[axis]] for of in curved if set(of) <= set(own)]
        if dims:
            axes[axis] = str(max(dims, key=likely) if axis == "T" else dims[0])
    return axes


def _on_axes(name: str, field: Any, axes: Mapping[str, str]) -> Any:
    """``field`` as (time, y, x)."""
    if lacking := _lacking(axes):
        raise DataError(
            name,
            f"{field.name} {dict(field.sizes)} has no axis of {' and '.join(lacking)} that the CF "
            f"conventions tell; {NAME_THEM}",
        )
    others = [str(dim) for dim in field.dims if dim not in axes.values()]
    if large := {dim: field.sizes[dim] for dim in others if field.sizes[dim] > 1}:
        first = next(iter(large))
        raise DataError(
            name,
            f"{field.name} also has {large}; choose one place there first, as in "
            f"xarray.open_dataset({name!r}).isel({first}=0).to_netcdf('one.nc')",
        )
    return field.squeeze(others).transpose(*(axes[axis] for axis in AXES))


def _in_range(field: Any, raw: Any) -> Any:
    """``field`` where it is in the range that the file calls valid.

    That is one of the packed values, unless its own type is that of the unpacked (CF conventions, 2.5.1).
    """
    low, high = np.asarray(raw.attrs.get("valid_range", (-np.inf, np.inf)))
    low, high = (
        np.asarray(raw.attrs.get(key, end)) for key, end in (("valid_min", low), ("valid_max", high))
    )
    if not (np.isfinite(low) or np.isfinite(high)):
        return field
    packed = raw.dtype.kind in "iu" and not any(
        np.isfinite(end) and end.dtype.kind == "f" for end in (low, high)
    )
    values = (raw if packed else field).values
    return field.copy(data=np.where((values >= low) & (values <= high), field.values, np.nan))


def _declared(raw: Any) -> np.ndarray[Any, Any]:
    """The values that stand for missing ones."""
    told = [raw.attrs[key] for key in ("_FillValue", "missing_value") if key in raw.attrs]
    return np.concatenate([np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in told] or [[]])


def _axis(found: Any, dim: str) -> Axis:
    coordinate = found[dim]
    try:
        values = tuple(map(float, coordinate.values))
    except (TypeError, ValueError):
        return Axis(dim, tuple(map(float, range(coordinate.size))))
    return Axis(dim, values, str(coordinate.attrs.get("units", "")))


def _hours(name: str, time: Any) -> Tensor:
    """Hours since the midnight before the first time."""
    values = time.values
    if np.issubdtype(values.dtype, np.datetime64):
        hours = (values - values[0].astype("datetime64[D]")) / np.timedelta64(1, "h")
        return torch.from_numpy(hours)
    try:  # cftime, for calendars that numpy does not have
        midnight = values[0].replace(hour=0, minute=0, second=0, microsecond=0)
        return torch.tensor([(value - midnight).total_seconds() / 3600 for value in values]).double()
    except (AttributeError, TypeError) as error:
        raise DataError(
            name, f"{time.name} is no time that the CF conventions tell ({values.dtype})"
        ) from error
