"""Make the page of results from finished studies: python docs/study/collect.py FOLDER…

Each folder is what ``convbias study --out FOLDER`` wrote. Its numbers (``results.json``) and two figures are
copied beside this file, and README.md is written anew from all the numbers that lie here.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from convbias.study.page import command

HERE = Path(__file__).parent
HEAD = """# Which bias pays: results

Each study was run by the command above its table, on a machine with two cores that had other work too; all
seven took about 95 minutes. The numbers of every trial are in the `.json` beside this page. ± is Student's
95% interval over the seeds; p is of the paired t test against tied, corrected for the number of tyings
(Holm). *As tied* is the epoch at which the mean validation error is down to the best that tied ever has. The
control, a tied network that is wider, is in no correction.
[How a study works](../choosing.md).

`era5_t2m_uk_2019_03.npz` holds hourly temperatures two metres above the British Isles in March 2019, 33 × 49
points, in kelvin (contains modified Copernicus Climate Change Service information 2019);
`t10k-images-idx3-ubyte.gz` is MNIST's test set; the digits come with scikit-learn.
`python docs/study/collect.py FOLDER…` makes this page.
"""


def main(folders: list[str]) -> None:
    """Copy what is given, and write the page."""
    for folder in map(Path, folders):
        shutil.copy(folder / "results.json", HERE / f"{folder.name}.json")
        shutil.copy(folder / "differences.svg", HERE / f"{folder.name}-differences.svg")
        shutil.copy(folder / "fields.png", HERE / f"{folder.name}-fields.png")
    found = {file.stem: json.loads(file.read_text("utf-8")) for file in HERE.glob("*.json")}
    names = sorted(found, key=lambda name: (name.split("-")[0], found[name]["asked"]["lead"] or 0))
    page = [HEAD, "## In short", "", *summary({name: found[name] for name in names})]
    for name in names:
        page += section(name, found[name])
    (HERE / "README.md").write_text("\n".join(page).rstrip() + "\n", "utf-8")


def summary(found: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each study."""
    lines = ["| study | tied | best | control | verdict |", "|---|---|---|---|---|"]
    for name, report in found.items():
        rows = {row["label"]: row for row in report["rows"]}
        ours = [row for row in report["rows"] if row["width"] is None]
        best = min(ours, key=lambda row: row["error"]["mean"])
        control = next((row for row in report["rows"] if row["width"] is not None), None)
        beside = f"{control['error']['mean']:.3f}" if control else ""
        tied, lowest = rows["tied"]["error"]["mean"], best["error"]["mean"]
        told = f"[{name}](#{name}) | {tied:.3f} | {best['label']} {lowest:.3f}"
        lines.append(f"| {told} | {beside} | {report['verdict']} |")
    return [*lines, ""]


def section(name: str, report: dict[str, Any]) -> list[str]:
    """One study's table and figures."""
    lines = [
        f"## {name}",
        "",
        f"{report['data']}: {report['summary']}.",
        "",
        "```sh",
        command(report["asked"]),
        "```",
        "",
    ]
    lines += [
        f"| tying | parameters | {report['metric']} | minus tied | p | as tied |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in report["rows"]:
        apart, p = row["difference"], row["p"]
        difference = "" if apart is None else f"{apart['mean']:+.3f} ± {apart['half_width']:.3f}"
        probability = "" if p is None else "<0.001" if p < 0.0005 else f"{p:.3f}"
        error = f"{row['error']['mean']:.3f} ± {row['error']['half_width']:.3f}"
        late = "never" if row["catches_up"] is None else f"epoch {row['catches_up']}"
        cells = (row["label"], f"{row['parameters']:,}", error, difference, probability, late)
        lines.append(f"| {' | '.join(cells)} |")
    if report["baseline"]:
        ((what, error),) = report["baseline"].items()
        lines += ["", f"For comparison, {what}: {error:.3f}."]
    lines += ["", f"**{report['verdict']}** {report['recommendation']}", ""]
    lines += [f"![Differences from tied, with their intervals]({name}-differences.svg)", ""]
    return [*lines, f"![Bias fields, a row for each tying]({name}-fields.png)", ""]


if __name__ == "__main__":
    main(sys.argv[1:])
