"""What a layer asks of its arguments, and of what is given to it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ShapeError
from ..geometry import Geometry
from ..ops.checks import check_groups, check_size


def check(
    input: torch.Size,
    weight: torch.Size,
    geometry: Geometry,
    groups: int,
    output_size: tuple[int, ...] | None,
) -> None:
    """Raise ShapeError for an input that the convolution cannot take, or that the bias is not for."""
    check_size(input, weight, geometry, groups)
    if output_size is None:
        return
    found = geometry.output_size(input[-geometry.dims :])
    if found != output_size:
        raise ShapeError(
            "input",
            list(input),
            f"gives an output of {found}, but the bias of this layer is for {output_size}; "
            f"resize_({found}) interpolates it, and a tap or grid bias follows the image",
        )


def check_residual(residual: Tensor, input: Tensor, channels: int, geometry: Geometry) -> None:
    """Raise ShapeError for a residual of another shape than the output's, ValueError for one elsewhere."""
    dims = geometry.dims
    wanted = (*input.shape[: -dims - 1], channels, *geometry.output_size(input.shape[-dims:]))
    if residual.shape != wanted:
        raise ShapeError("residual", list(residual.shape), f"must have the output's shape, {list(wanted)}")
    if residual.device != input.device:
        raise ValueError(f"residual on {residual.device}: must be on the input's device, {input.device}")


def check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    """Raise ShapeError for channels that cannot be grouped so."""
    check_groups(groups)
    for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
        if value < 0:
            raise ShapeError(name, value, "must not be negative")
        if value % groups != 0:
            raise ShapeError(name, value, f"{name} must be divisible by groups, {groups}")
