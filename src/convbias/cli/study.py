"""``convbias study``: from the words of the command line to a table, a results file and a figure."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from ..errors import extra
from ..outputs import writable_folder, write_whole
from ..tying import parse

with extra("study"):
    import typer
    from rich.console import Console

    from .. import plots
    from ..study import Study, Trial, compare, digits, load_field, load_images, load_model
    from ..study.comparison import SEEDS, TYINGS
    from ..study.data import Data
    from ..study.report import as_dict, legend, table, verdict

EXAMPLES = """Examples:

convbias study  (the built-in digits)

convbias study --data t10k-images-idx3-ubyte.gz --tying none --tying untied

convbias study --data temperature.npz --task forecast --lead 6 --seeds 3

convbias study --data cells.npz --model nets:make --where 'stem|head.*'
"""
RESULTS, UNFINISHED, FIGURE = "results.json", "results.unfinished.json", "fields.png"


class TaskName(StrEnum):
    """What the network is to do with the data."""

    classify = "classify"
    forecast = "forecast"


def study(
    data: Annotated[
        Path | None,
        typer.Option(
            help="npz with images and labels, or with a field (time, h, w); or IDX images, the labels "
            "beside them. Without it: scikit-learn's digits.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[TaskName, typer.Option(help="What to do with the data.")] = TaskName.classify,
    lead: Annotated[int | None, typer.Option(help="Steps ahead, for forecasts.", show_default=False)] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="module:factory, a function that makes your network; it starts in the working directory.",
            show_default="a small one that fits the data",
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            help="The layers to change: a regular expression for their names.",
            show_default="all convolutions",
        ),
    ] = None,
    tying: Annotated[
        list[str] | None,
        typer.Option(
            help="A bias to compare; repeat it. tied is always compared.", show_default=", ".join(TYINGS)
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many paired repetitions.")] = SEEDS,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data.", show_default="20, forecasts 25")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for results.json and fields.png; older ones there are replaced.")
    ] = Path("convbias-study"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Which bias pays on my data?

    Trains one network per tying, from the same initial weights and on
    the same batches, and prints its error on a test split, with the paired
    difference from tied.
    """
    tyings = tying or list(TYINGS)
    for spelling in tyings:
        parse(spelling)
    make_model = None if model is None else load_model(model)
    given = _load(data, task, lead)
    recipe = given.recipe if epochs is None else replace(given.recipe, epochs=epochs)
    existed = out.exists()
    folder = writable_folder(out)
    trials: list[Trial] = []

    def keep(trial: Trial) -> None:
        trials.append(trial)
        _write_json(folder / UNFINISHED, as_dict(Study(given.task.metric, recipe, tuple(trials)), given))

    to_stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    to_stderr.print(f"{given.name}: {given.summary}.", markup=False)
    try:
        found = compare(
            *(make_model or given.make_model, given.train, given.test),
            validation=given.validation,
            task=given.task,
            tyings=tyings,
            where=where,
            seeds=seeds,
            recipe=recipe,
            on_trial=keep,
        )
    except BaseException:
        if trials:
            print(f"stopped; the {len(trials)} finished trials are in {folder / UNFINISHED}", file=sys.stderr)
        elif not existed:
            folder.rmdir()
        raise
    report = as_dict(found, given)
    _write_json(folder / RESULTS, report)
    (folder / UNFINISHED).unlink(missing_ok=True)
    plots.save(plots.bias_fields(found.fields), folder / FIGURE)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    to_stdout = Console(highlight=False)
    to_stdout.print(table(found))
    if given.baseline is not None:
        name, error = given.baseline
        to_stdout.print(f"\nFor comparison, {name}: {error:.3f}.")
    to_stdout.print(f"\n{verdict(found)}", style="bold", markup=False)
    to_stdout.print(f"\n{legend(found)}", markup=False)
    to_stderr.print(f"\nWritten: {folder / RESULTS}, {folder / FIGURE}", markup=False)


def _load(data: Path | None, task: TaskName, lead: int | None) -> Data:
    if task is TaskName.forecast:
        if data is None or lead is None:
            raise ValueError("task=forecast: needs --data FILE with a field (time, h, w) and --lead N")
        return load_field(data, lead)
    if lead is not None:
        raise ValueError(f"lead={lead}: only a forecast has one; add --task forecast")
    return digits() if data is None else load_images(data)


def _write_json(path: Path, content: object) -> None:
    write_whole(
        path,
        lambda unfinished: unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False), "utf-8"),
    )
