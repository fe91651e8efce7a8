"""A study as files: the page that is sent to a colleague, its figures, and its numbers for programs."""

from __future__ import annotations

import base64
import platform
import shlex
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import extra
from ..outputs import write_whole
from ..plots import Coordinates, bias_fields, decomposition, differences, learning_curves, save
from ..plots.files import svg
from .data import Data
from .report import (
    baseline,
    cells,
    code,
    csv_text,
    json_text,
    legend,
    more_cells,
    number,
    recommendation,
    spelled,
    verdict,
)
from .request import Request
from .results import REFERENCE, Study

with extra("study"):
    import jinja2
    from matplotlib.figure import Figure

TEMPLATE = "page.html.jinja"
UNITS = {"degrees_north": "°N", "degrees_east": "°E"}
PAGE, RESULTS, TRIALS = "report.html", "results.json", "trials.csv"


def write(folder: Path, study: Study, data: Data, report: Mapping[str, Any]) -> list[str]:
    """Write everything into ``folder``, the numbers first and the page last; the names of the files."""

    def put(name: str, text: str) -> None:
        write_whole(folder / name, lambda file: file.write_text(text, "utf-8"))

    put(RESULTS, json_text(report))
    put(TRIALS, csv_text(study))
    figures = {name: draw() for name, draw in _figures(study, data).items()}
    for name, figure in figures.items():
        save(figure, folder / f"{name}.png")
        save(figure, folder / f"{name}.svg")
    put(PAGE, page(study, data, report, figures))
    return [PAGE, RESULTS, TRIALS, *(f"{name}.png" for name in figures), "the figures as .svg too"]


def page(study: Study, data: Data, report: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
    """One HTML page that needs no other file and no network."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    source = resources.files("convbias.study").joinpath(TEMPLATE).read_text("utf-8")
    best = min(study.rows, key=lambda row: row.error.mean)
    asked = report["asked"]
    return environment.from_string(source).render(
        data=data,
        baseline=baseline(study),
        study=study,
        verdict=verdict(study),
        recommendation=recommendation(study) if study.seeds > 1 else "",
        code=code(study) if study.seeds > 1 else "",
        rows=[
            {
                "name": spelled(row),
                "cells": [*cells(study, row), study.digits.interval(row.bootstrap), *more_cells(study, row)],
                "best": row is best,
                "recipe": _recipe(study, row.label),
            }
            for row in study.rows
        ],
        with_bootstrap=any(row.bootstrap for row in study.rows),
        tuned=bool(asked.get("tune")),
        reference=REFERENCE,
        legend=legend(study, data.block),
        figures={name: _inline(figure) for name, figure in figures.items()},
        command=command(asked),
        facts={
            "convbias": asked["convbias"],
            "PyTorch": asked["torch"],
            "Python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {asked['device']}",
            "side by side": f"{asked['jobs']}, {number(asked['threads'], 'thread')} each",
            "seeds": ", ".join(map(str, sorted({trial.seed for trial in study.trials}))),
            "checksum of the data": asked["checksum"],
            "recipe": ", ".join(f"{name} {value}" for name, value in report["recipe"].items()),
        },
    )


def command(asked: Mapping[str, Any]) -> str:
    """The command line that asks for the same study."""
    default = Request()
    names = {"tyings": "tying", "compiled": "compile", "mask": "missing"}
    words = ["convbias", "study"]
    for name in Request.__dataclass_fields__:
        value = asked[name]
        option = f"--{names.get(name, name).replace('_', '-')}"
        if value in (getattr(default, name), []) or value is None:
            continue
        if name == "tyings":
            words += [word for spelling in value for word in (option, spelling)]
        elif name == "mask":
            words += [option, "mask"]
        else:
            words += [option] if value is True else [option, str(value)]
    return shlex.join([*words, "--jobs", str(asked["jobs"])])


def _figures(study: Study, data: Data) -> dict[str, Callable[[], Figure]]:
    """What there is to draw."""
    metric = study.task.metric
    apart = {
        spelled(row): (row.difference.mean, row.difference.half_width) for row in study.rows if row.difference
    }
    on_map: list[Coordinates] = [
        (f"{axis.name}, {UNITS.get(axis.unit, axis.unit)}" if axis.unit else axis.name, axis.values)
        for axis in data.axes
    ]
    drawn: dict[str, Callable[[], Figure]] = {}
    if apart:
        drawn["differences"] = lambda: differences(apart, metric)
    if any(study.fields.values()):
        drawn["fields"] = lambda: bias_fields(study.fields, on_map)
    if any(any(of) for of in study.curves.values()):
        drawn["curves"] = lambda: learning_curves(study.curves, metric)
    if study.shares:
        drawn["decomposition"] = lambda: decomposition(study.shares)
    return drawn


def _recipe(study: Study, label: str) -> str:
    recipe = next(trial.recipe for trial in study.trials if trial.label == label)
    return f"{recipe['learning_rate']:.3g}, {recipe['weight_decay']:.3g}"


def _inline(figure: Figure) -> str:
    """A picture that is its own address: figures in one page do not share names this way."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg(figure).encode()).decode()
