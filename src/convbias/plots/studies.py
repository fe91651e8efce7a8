"""What a study found: differences, learning curves, and what outputs are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import ShapeError, extra
from .files import Picture

with extra("plots"):
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
DASHES = ("-", "--", ":", "-.")
PARTS = {"data": COLOURS[5], "padding": COLOURS[4], "tied": COLOURS[7], "position": COLOURS[1]}


def differences(
    found: Mapping[str, tuple[float, float | None]], metric: str, reference: str = "tied"
) -> Figure:
    """Differences from the reference, a line each: the mean and the half width of its interval, if known.

    >>> figure = differences({"none": (0.1, 0.05), "untied": (-0.3, None)}, "RMSE in K")
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['none', 'untied']
    """
    figure = Picture(figsize=(6.4, 1.1 + 0.32 * len(found)), dpi=150, layout="constrained")
    axes = figure.subplots()
    for height, (mean, half_width) in enumerate(found.values()):
        axes.errorbar(
            mean, height, xerr=half_width, fmt="o", color=COLOURS[0] if mean < 0 else COLOURS[1], capsize=3
        )
    axes.axvline(0, color="0.4", lw=1)
    axes.set_yticks(range(len(found)), [name or '""' for name in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel(f"{metric}, minus that of {reference}: to the left is better")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def learning_curves(curves: Mapping[str, Sequence[Sequence[float]]], metric: str) -> Figure:
    """Validation errors over the epochs: each tying's mean over its trials, and their range as a band.

    ``curves`` gives the curves of each tying, one for each seed, as ``Study.curves`` does. A tying without
    any is left out.

    Raises ShapeError where there is nothing to draw, and for curves of one tying that differ in length.

    >>> figure = learning_curves({"tied": [[3.0, 2.0], [4.0, 2.0]], "untied": [[3.0, 1.0]]}, "error in %")
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['tied', 'untied']
    """
    drawn = {tying: of_tying for tying, of_tying in curves.items() if any(of_tying)}
    if not drawn:
        raise ShapeError("curves", dict(curves), "has no curve; a validation split is needed")
    for tying, of_tying in drawn.items():
        epochs = [len(curve) for curve in of_tying]
        if len(set(epochs)) > 1:
            raise ShapeError(
                "curves", epochs, f"the curves of {tying!r} must have as many epochs as each other"
            )
    figure = Picture(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    for number, (tying, of_tying) in enumerate(drawn.items()):
        values = torch.tensor([list(curve) for curve in of_tying])
        epochs = range(1, values.shape[1] + 1)
        colour = COLOURS[number % len(COLOURS)]
        dash = DASHES[number // len(COLOURS) % len(DASHES)]
        mean = values.mean(0)
        # A line needs two points beside each other; where there is one, it is a dot.
        style = {"label": tying or '""', "color": colour, "marker": "o", "markevery": _alone(mean)}
        axes.plot(epochs, mean.tolist(), dash, **style)
        axes.fill_between(
            epochs, values.amin(0).tolist(), values.amax(0).tolist(), color=colour, alpha=0.12, lw=0
        )
    axes.set(xlabel="epoch", ylabel=f"{metric}, validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_xlim()[1] < 2:
        axes.set_xticks([1])
    if all(error > 0 for of_tying in drawn.values() for curve in of_tying for error in curve):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda error, _: f"{error:g}")
        axes.yaxis.set_minor_formatter(lambda error, _: f"{error:g}" if f"{error:e}"[0] in "25" else "")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def decomposition(shares: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """What outputs are made of: a bar for each tying and layer, in its parts, which add up to 1.

    ``shares`` gives, by tying, layer and part, the part's share of the output's variation over space, as
    ``Study.shares`` does. A part that works against the others reaches below 0.

    Raises ShapeError where there is nothing to draw, or a part is missing.

    >>> parts = {"data": 0.7, "padding": 0.1, "tied": 0.0, "position": 0.2}
    >>> len(decomposition({"untied": {"conv": parts}}).axes[0].patches)
    4
    """
    bars = [(tying, layer) for tying, layers in shares.items() for layer in layers]
    if not bars:
        raise ShapeError("shares", dict(shares), "has no layer")
    for tying, layer in bars:
        if set(shares[tying][layer]) != set(PARTS):
            raise ShapeError("shares", dict(shares[tying][layer]), f"must have the parts {', '.join(PARTS)}")
    layers = list(dict.fromkeys(layer for _, layer in bars))
    figure = Picture(figsize=(6.4, 1.0 + 0.2 * len(bars) + 0.3 * len(layers)), dpi=150, layout="constrained")
    panels = figure.subplots(
        len(layers), sharex=True, squeeze=False, height_ratios=[_count(bars, layer) for layer in layers]
    )[:, 0]
    for panel, layer in zip(panels, layers, strict=True):
        tyings = [tying for tying, of in bars if of == layer]
        for height, tying in enumerate(tyings):
            ends = {True: 0.0, False: 0.0}
            for part, colour in PARTS.items():
                share = shares[tying][layer][part]
                panel.barh(
                    height, share, left=ends[share >= 0], color=colour, label=part if not height else ""
                )
                ends[share >= 0] += share
        panel.set_yticks(range(len(tyings)), [tying or '""' for tying in tyings], fontsize="small")
        panel.set_ylim(len(tyings) - 0.4, -0.6)
        panel.set_title(f"layer {layer}" if layer else "the layer", loc="left", fontsize="small")
        panel.axvline(0, color="0.4", lw=1)
        panel.spines[["top", "right", "left"]].set_visible(False)
    panels[-1].set_xlabel("share of the output's variation over space")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _alone(values: Tensor) -> list[int]:
    """Where a number is finite and those beside it are not."""
    known = [False, *values.isfinite().tolist(), False]
    around = zip(known, known[1:], known[2:], strict=False)
    return [i for i, near in enumerate(around) if near == (False, True, False)]


def _count(bars: Sequence[tuple[str, str]], layer: str) -> int:
    return sum(of == layer for _, of in bars)
