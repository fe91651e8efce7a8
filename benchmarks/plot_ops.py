"""The figure of docs/kernels.md: python benchmarks/plot_ops.py FILE-OF-BENCH-OPS.json PICTURE"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS = "convbias"
# The same convolution without an untied bias, or ours: no peers.
OTHERS = ("bare", "eager tied", OURS)
COLOURS = {"eager": "#8a8a8a", "best other": "#d98c1f", OURS: "#1f6fd9"}


def dots(row: dict[str, Any]) -> dict[str, float]:
    """Times of a layer beside the bare convolution's."""
    ratios = {name: times[0] / row["forward"]["bare"][0] for name, times in row["forward"].items()}
    peers = {name: r for name, r in ratios.items() if name not in OTHERS and name not in row["wrong"]}
    found = {"eager": ratios["eager"], OURS: ratios[OURS]}
    if len(peers) > 1:
        found["best other"] = min(peers.values())
    return found


def main() -> None:
    source, picture = map(Path, sys.argv[1:])
    found = json.loads(source.read_text("utf-8"))
    batches = sorted({row["batch"] for row in found["rows"]})
    layers = list(dict.fromkeys(row["layer"] for row in found["rows"]))
    size = (5.2 * len(batches), 0.8 + 0.34 * len(layers))
    figure, panels = plt.subplots(1, len(batches), figsize=size, sharey=True, squeeze=False)
    for panel, batch in zip(panels[0], batches, strict=True):
        for row in (row for row in found["rows"] if row["batch"] == batch):
            line, values = len(layers) - 1 - layers.index(row["layer"]), dots(row)
            panel.plot([min(values.values()), max(values.values())], [line] * 2, color="#dddddd", zorder=1)
            for name, value in values.items():
                panel.scatter(value, line, 42 if name == OURS else 26, COLOURS[name], zorder=2)
        panel.axvline(1, color="#444444", linewidth=0.8, zorder=0)
        panel.set_xscale("log", base=2)
        panel.set_xticks([0.125, 0.25, 0.5, 1, 2], ["⅛", "¼", "½", "1", "2"])
        panel.set_title(f"{batch} image{'s' if batch > 1 else ''}", fontsize=10)
        panel.set_xlabel("time beside the convolution without any bias")
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    panels[0][0].set_yticks(range(len(layers)), layers[::-1])
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=c, label=n) for n, c in COLOURS.items()]
    figure.legend(handles=handles, loc="upper left", ncols=3, frameon=False, bbox_to_anchor=(0, 1.0))
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    figure.savefig(picture, dpi=110, metadata={"Date": None} if picture.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
