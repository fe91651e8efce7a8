"""``convbias study``: from the words of the command line to a table, a results file and a figure."""

from __future__ import annotations

import itertools
import json
import shlex
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch

from .. import __version__
from ..errors import OutputError, extra
from ..outputs import write_whole
from ..tying import parse

with extra("study"):
    import typer
    from rich.console import Console

    from .. import plots
    from ..study import Run, compare, digits, load_field, load_images, load_model
    from ..study.comparison import SEEDS, TYINGS
    from ..study.data import Data
    from ..study.report import as_dict, legend, recommendation, table, verdict
    from ..study.runs import checksum

EXAMPLES = """Examples:

convbias study  (the built-in digits)

convbias study --data t10k-images-idx3-ubyte.gz --tying none --tying untied

convbias study --data temperature.npz --task forecast --lead 6 --seeds 3

convbias study --data cells.npz --model nets:make --where 'stem|head.*'
"""
RESULTS, FIELDS, CURVES = "results.json", "fields.png", "curves.png"
DEFAULT_FOLDER = "convbias-study"


class TaskName(StrEnum):
    """What the network is to do with the data."""

    classify = "classify"
    forecast = "forecast"


@dataclass(frozen=True)
class Options:
    """What is asked of a study."""

    data: str | None
    task: str
    lead: int | None
    model: str | None
    where: str | None
    tyings: list[str]
    seeds: int
    epochs: int | None


def study(
    context: typer.Context,
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
        Path | None,
        typer.Option(help="A new folder for the results.", show_default="convbias-study, -2, -3 …"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the study in this folder; it knows the options.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Which bias pays on my data?

    Trains one network per tying, from the same initial weights and on
    the same batches, and prints its error on a test split, with the paired
    difference from tied. What is finished is kept: --resume goes on.
    """
    if resume is None:
        options = Options(
            _absolute(data), task.value, lead, model, where, tying or list(TYINGS), seeds, epochs
        )
        folder = _new_folder(out)
    else:
        _nothing_else(context)
        options, folder = _asked_in(resume), resume
    for spelling in options.tyings:
        parse(spelling)
    make_model = None if options.model is None else load_model(options.model)
    given = _load(options)
    recipe = given.recipe if options.epochs is None else replace(given.recipe, epochs=options.epochs)
    same = checksum(given.train, given.validation, given.test)
    run = Run(
        folder, {**asdict(options), "checksum": same, "convbias": __version__, "torch": torch.__version__}
    )
    to_stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    to_stderr.print(f"{given.name}: {given.summary}.", markup=False)
    try:
        found = compare(
            *(make_model or given.make_model, given.train, given.test),
            validation=given.validation,
            task=given.task,
            tyings=options.tyings,
            where=options.where,
            seeds=options.seeds,
            recipe=recipe,
            run=run,
        )
    except BaseException:
        finished = run.stop()
        if folder.exists():
            again = f"convbias study --resume {shlex.quote(str(folder))} goes on"
            to_stderr.print(f"stopped with {finished} finished trials; {again}", markup=False)
        raise
    report = as_dict(found, given)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    write_whole(folder / RESULTS, lambda file: file.write_text(text, "utf-8"))
    plots.save(plots.bias_fields(found.fields), folder / FIELDS)
    plots.save(plots.learning_curves(found.curves, found.metric), folder / CURVES)
    if as_json:
        print(text)
        return
    to_stdout = Console(highlight=False)
    to_stdout.print(table(found))
    if given.baseline is not None:
        name, error = given.baseline
        to_stdout.print(f"\nFor comparison, {name}: {error:.3f}.")
    to_stdout.print(f"\n{verdict(found)}", style="bold", markup=False)
    if options.seeds > 1:
        to_stdout.print(f"\n{recommendation(found)}", markup=False)
        to_stdout.print(f"\n{legend(found)}", style="dim", markup=False)
    to_stderr.print(f"\nWritten to {folder}: {RESULTS}, {FIELDS}, {CURVES}", markup=False)


def _load(options: Options) -> Data:
    if options.task == TaskName.forecast:
        if options.data is None or options.lead is None:
            raise ValueError("task=forecast: needs --data FILE with a field (time, h, w) and --lead N")
        return load_field(options.data, options.lead)
    if options.lead is not None:
        raise ValueError(f"lead={options.lead}: only a forecast has one; add --task forecast")
    return digits() if options.data is None else load_images(options.data)


def _absolute(data: Path | None) -> str | None:
    return None if data is None else str(data.absolute())


def _new_folder(out: Path | None) -> Path:
    """``out``, or the first unused one of convbias-study, convbias-study-2, …"""
    if out is not None:
        if Run.request_in(out) is not None:
            raise OutputError(
                out, "holds a study already; --resume goes on with it, or choose another folder"
            )
        return out
    names = (f"{DEFAULT_FOLDER}-{n}" if n > 1 else DEFAULT_FOLDER for n in itertools.count(1))
    return next(folder for folder in map(Path, names) if not folder.exists())


def _asked_in(folder: Path) -> Options:
    asked = Run.request_in(folder)
    if asked is None:
        raise OutputError(folder, "holds no study to resume")
    try:
        return Options(**{f.name: asked[f.name] for f in fields(Options)})
    except KeyError as error:
        raise OutputError(folder / "request.json", f"lacks {error}; it is not this version's") from error


def _nothing_else(context: typer.Context) -> None:
    """Refuse options beside --resume: the study would not be the one that was begun."""
    for name in context.params:
        given = context.get_parameter_source(name)
        if name not in ("resume", "as_json") and given is not None and given.name == "COMMANDLINE":
            raise ValueError(f"resume: the folder knows the options; leave --{name} out")
