"""Bias fields as maps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ..errors import ShapeError, extra
from ..nn import Bias, Decomposition, decompose
from ..nn.probe import call_with
from .files import Picture

with extra("plots"):
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

FILTERS = 3
LAYERS = 4
COLOURS = colormaps["RdBu_r"].with_extremes(bad="#ffd000")
# What a scale can span without its width being infinite.
LARGEST = 8e307
# Pictures this much longer than wide, or wider than long, fill their tile, for they would be hairlines.
LONGEST = 8
TILE = 1.2  # inches
MARGIN = 1.2
# At which ends of a scale there is an arrow: below, above.
ENDS = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
LETTERS = 16  # of a title over one tile
LINE = 0.14
MOST_NUMBERS = 16  # of slices below each other
# How much of the colour scale one outlier may take from the rest.
QUANTILE = 0.995


# The name and the values of an axis.
Coordinates = tuple[str, Sequence[float]]


def bias_fields(
    fields: Mapping[str, Mapping[str, Tensor]], coordinates: Sequence[Coordinates] = ()
) -> Figure:
    """Bias fields beside each other: a row for each tying, some filters of each layer in the columns.

    ``fields`` gives, by tying and layer, a bias field ``(C, *out)``, as ``Study.fields`` does. Four layers
    are shown, and in each three filters: those whose fields vary most over space under any tying. A layer's
    colours mean the same in every row, and white is 0. Lines are drawn as strips, volumes with their slices
    below each other, numbered from above. The scale covers 99.5 % of the numbers, so that an outlier does not
    take it from the rest, and ends in an arrow where one lies beyond; what is not finite is yellow.
    ``coordinates`` of the vertical and the horizontal axis are written at a field that has their sizes, and
    such fields are turned so that they rise upwards and to the right; longitudes may go on at 0.

    Raises ShapeError where there is nothing to draw.

    >>> figure = bias_fields({"tied": {"0": torch.ones(2, 8, 8)}, "untied": {"0": torch.randn(2, 8, 8)}})
    >>> len(figure.axes)  # 2 filters under 2 tyings, and the scale
    5
    """
    pictures = {tying: {name: _flat(f) for name, f in layers.items()} for tying, layers in fields.items()}
    by_layer: dict[str, list[Tensor]] = {}
    for layers in pictures.values():
        for name, picture in layers.items():
            by_layer.setdefault(name, []).append(picture)
    for name, of_layer in by_layer.items():
        if len({len(picture) for picture in of_layer}) > 1:
            counts = [len(picture) for picture in of_layer]
            raise ShapeError("fields", counts, f"the rows have different numbers of filters in {name!r}")
    if not by_layer:
        raise ShapeError("fields", dict(fields), "has no bias field; a layer with a bias is needed")
    found = len(by_layer)
    kept = sorted(by_layer, key=lambda name: -_spread(by_layer[name]).max().item())[:LAYERS]
    by_layer = {name: of_layer for name, of_layer in by_layer.items() if name in kept}
    shown = {name: _most_varied(of_layer) for name, of_layer in by_layer.items()}

    titles = {name: _title(name) for name in by_layer}
    width, height = _size(len(fields), sum(map(len, shown.values())), by_layer)
    more = max(title.count("\n") for title in titles.values())
    figure = Picture(figsize=(width, height + LINE * more), dpi=150, layout="compressed")
    if found > LAYERS:
        figure.supxlabel(f"{LAYERS} of {found} layers, those that vary most", fontsize="x-small")
    axes: Any = figure.subplots(len(fields), sum(map(len, shown.values())), squeeze=False)
    for tying, row in zip(fields, axes, strict=True):
        row[0].set_ylabel(tying, rotation=0, ha="right", va="center")
    first = 0
    for name, channels in shown.items():
        block = axes[:, first : first + len(channels)]
        first += len(channels)
        rows = [layers.get(name) for layers in pictures.values()]
        _draw(figure, block, titles[name], channels, rows, coordinates)
        _part_slices(block, next(layers[name] for layers in fields.values() if name in layers))
    return figure


def model_fields(model: Module, x: object) -> Figure:
    """The bias fields of a layer, or of a model's convolutions and ``Bias`` layers, for the input ``x``.

    ``x`` is as for ``decompose``; layers and filters are chosen as by ``bias_fields``.

    Raises ShapeError for a model without a convolution that runs, but for a ``Bias`` itself.

    >>> figure = model_fields(torch.nn.Conv2d(1, 2, 3), torch.randn(1, 1, 8, 8))
    >>> figure.axes[0].get_title().splitlines()
    ['the layer', 'filter 0']
    """
    found: dict[str, Tensor] = {}
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, Bias)}

    def seen(layer: Any, _: object, output: Tensor) -> None:
        found[names[layer]] = layer.bias_field(output.shape[-layer.dims :])

    hooks = [layer.register_forward_hook(seen) for layer in names]
    try:
        if isinstance(model, Bias):
            call_with(model, x)
        else:
            parts = decompose(model, x)
            found |= {name: of.tied + of.position for name, of in parts.items()}
    finally:
        for hook in hooks:
            hook.remove()
    return bias_fields({"": found})


def part_maps(parts: Mapping[str, Decomposition], image: int = 0) -> Figure:
    """What the outputs of one image are made of, as maps: a row for each part, and one for their sum.

    ``parts`` is what ``decompose`` gives.

    >>> layer, x = torch.nn.Conv2d(1, 2, 3, padding=1), torch.randn(4, 1, 8, 8)
    >>> figure = part_maps(decompose(layer, x))
    >>> [axes.get_ylabel() for axes in figure.axes[:10:2]]
    ['total', 'data', 'padding', 'tied', 'position']
    """
    rows: dict[str, dict[str, Tensor]] = {}
    for layer, found in parts.items():
        if not -len(found.total) <= image < len(found.total):
            raise ShapeError("image", image, f"there are {len(found.total)} of them, counted from 0")
        whole = found.total[image]
        rows.setdefault("total", {})[layer] = whole
        rows.setdefault("data", {})[layer] = found.data[image]
        for name in ("padding", "tied", "position"):
            rows.setdefault(name, {})[layer] = getattr(found, name).expand_as(whole)
    return bias_fields(rows)


def _draw(
    figure: Figure,
    block: Any,
    title: str,
    channels: Sequence[int],
    rows: Sequence[Tensor | None],
    coordinates: Sequence[Coordinates],
) -> None:
    """One layer: its ``channels`` in the columns of ``block``, a field or none for each row, one scale."""
    values = torch.cat([row[list(channels)].flatten() for row in rows if row is not None]).double()
    finite = values[values.isfinite()].clamp(-LARGEST, LARGEST).numpy()
    # torch's quantile takes no more than 16 million numbers.
    limit = (float(np.quantile(np.abs(finite), QUANTILE, method="higher")) if finite.size else 0.0) or 1.0
    scale = Normalize(-limit, limit)
    beyond = (bool((finite < -limit).any()), bool((finite > limit).any()))
    for number, (axes, row) in enumerate(zip(block, rows, strict=True)):
        for axis, channel in zip(axes, channels, strict=True):
            axis.set(xticks=[], yticks=[])
            if row is not None:
                picture = row[channel].double()
                picture = picture.clamp(-LARGEST, LARGEST).where(picture.isfinite(), torch.nan)
                height, width = picture.shape
                stretched = height == 1 or max(height, width) > LONGEST * min(height, width)
                corner = number == len(rows) - 1 and axis is axes[-1]
                on_map = _turned(axis if corner else None, coordinates, picture)
                axis.imshow(
                    (picture.flip(on_map) if on_map else picture).numpy(),
                    norm=scale,
                    cmap=COLOURS,
                    interpolation="nearest",
                    aspect="auto" if stretched else "equal",
                )
    for axis, channel in zip(block[0], channels, strict=True):
        axis.set_title(f"{title}\nfilter {channel}", fontsize="small")
    colours = ScalarMappable(scale, COLOURS)
    bar = figure.colorbar(
        colours, ax=block, location="bottom", aspect=8 * len(channels), pad=0.02, extend=ENDS[beyond]
    )
    bar.set_ticks([-limit, 0, limit], labels=[f"{-limit:.2g}", "0", f"{limit:.2g}"])
    bar.ax.tick_params(labelsize="x-small")
    if finite.size < len(values):
        bar.set_label("yellow: not finite", fontsize="x-small")


def _part_slices(block: Any, field: Tensor) -> None:
    """Lines between the slices of a volume's pictures, and their numbers beside the last ones."""
    if torch.as_tensor(field).dim() != 4:
        return
    _, depth, height, _ = field.shape
    drawn = [axis for axis in block.flat if axis.images]
    for axis in drawn:
        for first in range(1, depth):
            axis.axhline(first * height - 0.5, color="0.2", linewidth=0.8)
    for axis in set(drawn) & set(block[:, -1]):
        axis.yaxis.tick_right()
        numbers = range(depth) if depth <= MOST_NUMBERS else (0, depth - 1)
        middles = [(number + 0.5) * height - 0.5 for number in numbers]
        axis.set_yticks(middles, map(str, numbers), fontsize="xx-small")
        axis.tick_params(axis="y", length=0)
        axis.yaxis.set_label_position("right")
        axis.set_ylabel("slice", fontsize="x-small")


def _flat(field: Tensor) -> Tensor:
    """``(C, *out)`` as pictures (C, height, width)."""
    field = torch.as_tensor(field)
    if not field.numel():
        raise ShapeError("field", list(field.shape), "has no entries")
    if field.dim() not in (2, 3, 4):
        raise ShapeError("field", list(field.shape), "must be (C, *out) with one to three axes after C")
    field = field.detach().cpu()
    return field[:, None] if field.dim() == 2 else field.flatten(1, -2)


def _turned(axis: Any, coordinates: Sequence[Coordinates], picture: Tensor) -> list[int]:
    """The axes along which to turn a picture that has the coordinates, whose ends are written at ``axis``."""
    if tuple(picture.shape) != tuple(len(values) for _, values in coordinates):
        return []
    (down_name, down), (across_name, across) = coordinates
    turned = [dim for dim, wrong in ((0, _rises(down) > 0), (1, _rises(across) < 0)) if wrong]
    if axis is not None:
        height, width = picture.shape
        axis.set_xticks([0, width - 1], _ends(across, 1 in turned), fontsize="x-small")
        axis.set_xlabel(across_name, fontsize="x-small")
        axis.yaxis.tick_right()
        axis.set_yticks([0, height - 1], _ends(down, 0 in turned), fontsize="x-small")
        axis.yaxis.set_label_position("right")
        axis.set_ylabel(down_name, fontsize="x-small")
    return turned


def _rises(values: Sequence[float]) -> float:
    """The step that most have: where longitudes go on from 359 to 0, one step is another."""
    return float(np.median(np.diff(values))) if len(values) > 1 else 0.0


def _ends(values: Sequence[float], turned: bool) -> list[str]:
    ends = (values[-1], values[0]) if turned else (values[0], values[-1])
    return [f"{value:.4g}" for value in ends]


def _title(layer: str) -> str:
    """A layer's name over one tile: long ones in lines, which end after dots and underscores if they can."""
    if not layer:
        return "the layer"
    lines = wrap("layer " + re.sub(r"([._])", r"\1 ", layer), LETTERS)
    return "\n".join(re.sub(r"([._]) ", r"\1", line) for line in lines)


def _spread(pictures: Sequence[Tensor]) -> Tensor:
    """How much each channel varies over space, at most."""
    return torch.stack([p.double().flatten(1).nan_to_num().std(1, correction=0) for p in pictures]).amax(0)


def _most_varied(pictures: Sequence[Tensor]) -> list[int]:
    """The channels whose pictures vary most over space, in order of their number."""
    spread = _spread(pictures)
    return sorted(spread.topk(min(FILTERS, len(spread))).indices.tolist())


def _size(rows: int, columns: int, by_layer: Mapping[str, Sequence[Tensor]]) -> tuple[float, float]:
    """The figure's size in inches, for the pictures' proportions."""
    tallest = max(p.shape[1] / p.shape[2] for pictures in by_layer.values() for p in pictures)
    return MARGIN + TILE * columns, MARGIN + TILE * rows * min(max(tallest, 0.4), 3.0)
