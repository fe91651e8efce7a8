"""Figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import ShapeError, extra
from .outputs import write_whole

with extra("plots"):
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

FILTERS = 3
COLOURS = "RdBu_r"
TILE = 1.2  # inches
MARGIN = 1.2
# How much of the colour scale one outlier may take from the rest.
QUANTILE = 0.995


def bias_fields(fields: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Bias fields beside each other: a row for each tying, some filters of each layer in the columns.

    ``fields`` gives, by tying and layer, a bias field (C, *out), as ``Study.fields`` does. In each layer the
    filters are shown whose fields vary most over space under any tying; a layer's colours mean the same
    in every row, and white is 0. Lines are drawn as strips, volumes with their slices below each other.

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
    if not by_layer:
        raise ShapeError("fields", dict(fields), "has no bias field; a layer with a bias is needed")
    shown = {name: _most_varied(of_layer) for name, of_layer in by_layer.items()}

    figure = Figure(figsize=_size(len(fields), sum(map(len, shown.values())), by_layer), dpi=150)
    figure.set_layout_engine("constrained")
    axes: Any = figure.subplots(len(fields), sum(map(len, shown.values())), squeeze=False)
    for tying, row in zip(fields, axes, strict=True):
        row[0].set_ylabel(tying, rotation=0, ha="right", va="center")
    first = 0
    for name, channels in shown.items():
        block = axes[:, first : first + len(channels)]
        first += len(channels)
        rows = [layers.get(name) for layers in pictures.values()]
        _draw(figure, block, f"layer {name}" if name else "the layer", channels, rows)
    return figure


def learning_curves(curves: Mapping[str, Sequence[Sequence[float]]], metric: str) -> Figure:
    """Validation errors over the epochs: each tying's mean over its trials, and their range as a band.

    ``curves`` gives the curves of each tying, one for each seed, as ``Study.curves`` does.

    Raises ShapeError where there is nothing to draw.

    >>> figure = learning_curves({"tied": [[3.0, 2.0], [4.0, 2.0]], "untied": [[3.0, 1.0]]}, "error in %")
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['tied', 'untied']
    """
    if not any(curve for of_tying in curves.values() for curve in of_tying):
        raise ShapeError("curves", dict(curves), "has no curve; a validation split is needed")
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    for tying, of_tying in curves.items():
        values = torch.tensor([list(curve) for curve in of_tying])
        epochs = range(1, values.shape[1] + 1)
        (line,) = axes.plot(epochs, values.mean(0).tolist(), label=tying or '""')
        axes.fill_between(
            epochs, values.amin(0).tolist(), values.amax(0).tolist(), color=line.get_color(), alpha=0.15, lw=0
        )
    axes.set(xlabel="epoch", ylabel=f"{metric}, validation")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write ``figure`` to ``path``, whole or not at all; the ending gives the format."""
    write_whole(Path(path), lambda unfinished: figure.savefig(unfinished))


def _draw(
    figure: Figure, block: Any, title: str, channels: Sequence[int], rows: Sequence[Tensor | None]
) -> None:
    """One layer: its ``channels`` in the columns of ``block``, a field or none for each row, one scale."""
    sizes = torch.cat([row[list(channels)].abs().flatten() for row in rows if row is not None])
    limit = float(sizes.float().quantile(QUANTILE)) or 1.0
    scale = Normalize(-limit, limit)
    for axes, row in zip(block, rows, strict=True):
        for axis, channel in zip(axes, channels, strict=True):
            axis.set(xticks=[], yticks=[])
            if row is not None:
                strip = row.shape[1] == 1
                axis.imshow(
                    row[channel].float().numpy(),
                    norm=scale,
                    cmap=COLOURS,
                    interpolation="nearest",
                    aspect="auto" if strip else "equal",
                )
    for axis, channel in zip(block[0], channels, strict=True):
        axis.set_title(f"{title}\nfilter {channel}", fontsize="small")
    colours = ScalarMappable(scale, COLOURS)
    bar = figure.colorbar(colours, ax=block, location="bottom", aspect=8 * len(channels), pad=0.02)
    bar.set_ticks([-limit, 0, limit], labels=[f"{-limit:.2g}", "0", f"{limit:.2g}"])
    bar.ax.tick_params(labelsize="x-small")


def _flat(field: Tensor) -> Tensor:
    """(C, *out) as pictures (C, height, width)."""
    if field.dim() not in (2, 3, 4):
        raise ShapeError("field", list(field.shape), "must be (C, *out) with one to three axes after C")
    field = field.detach().cpu()
    return field[:, None] if field.dim() == 2 else field.flatten(1, -2)


def _most_varied(pictures: Sequence[Tensor]) -> list[int]:
    """The channels whose pictures vary most over space, in order of their number."""
    spread = torch.stack([p.float().flatten(1).std(1, correction=0) for p in pictures]).amax(0)
    return sorted(spread.topk(min(FILTERS, len(spread))).indices.tolist())


def _size(rows: int, columns: int, by_layer: Mapping[str, Sequence[Tensor]]) -> tuple[float, float]:
    """The figure's size in inches, for the pictures' proportions."""
    tallest = max(p.shape[1] / p.shape[2] for pictures in by_layer.values() for p in pictures)
    return MARGIN + TILE * columns, MARGIN + TILE * rows * min(max(tallest, 0.4), 3.0)
