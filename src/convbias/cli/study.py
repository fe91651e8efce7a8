"""``convbias study``: from the words of the command line to a table, figures and a report."""

from __future__ import annotations

import itertools
import os
import shlex
import textwrap
from contextlib import nullcontext
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch

from .. import __version__
from ..errors import OutputError, extra

with extra("study"):
    import typer
    from rich.console import Console

    from ..study.comparison import SEEDS, TYINGS, NothingFinite, compare_on
    from ..study.crew import Crew, OneByOne, SideBySide
    from ..study.memory import keep_freed
    from ..study.models import MODELS
    from ..study.page import write
    from ..study.ranks import Place, here
    from ..study.report import (
        as_dict,
        baseline,
        code,
        json_text,
        legend,
        number,
        recommendation,
        table,
        verdict,
    )
    from ..study.request import DEFAULT_MODEL, Request
    from ..study.runs import Run
    from ..study.samples import checksum

EXAMPLES = """Examples:

convbias study  (the built-in digits)

convbias study --data t10k-images-idx3-ubyte.gz --tying none --tying untied

convbias study --data temperature.nc --task forecast --lead 6 --model unet

convbias study --data cells --model nets:make --where 'stem|head.*' --tune

torchrun --nproc-per-node=8 -m convbias study --data data:make --model nets:make --ddp
"""
DEFAULT_FOLDER = "convbias-study"
# What the tables need.
NARROWEST = 80


class TaskWord(StrEnum):
    """What the network is to do with the data."""

    classify = "classify"
    regress = "regress"
    segment = "segment"
    forecast = "forecast"


class MissingWord(StrEnum):
    """What to do with NaN that nothing declares as missing."""

    refuse = "refuse"
    mask = "mask"


class OptimizerWord(StrEnum):
    """What descends the loss."""

    adamw = "adamw"
    sgd = "sgd"


class PrecisionWord(StrEnum):
    """What the network computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def study(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Option(
            help="npz, IDX (labels beside the images), NetCDF or Zarr; a folder of images, one folder "
            "for each class; or module:factory, which returns torch Datasets (train, test). Without it: "
            "scikit-learn's digits.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[TaskWord, typer.Option(help="What to do with the data.")] = TaskWord.classify,
    lead: Annotated[int | None, typer.Option(help="Steps ahead, for forecasts.", show_default=False)] = None,
    variable: Annotated[
        str | None, typer.Option(help="The field to forecast.", show_default="the file's only one")
    ] = None,
    missing: Annotated[
        MissingWord,
        typer.Option(help="NaN that the data do not declare as missing: refused, or left out like those."),
    ] = MissingWord.refuse,
    model: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(MODELS)}; or module:factory, a function that makes your network, looked "
            "for in the working directory too.",
            show_default=DEFAULT_MODEL,
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
            help="A bias to compare; repeat it. tied is always compared.",
            show_default=", ".join(TYINGS[2]),
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many paired repetitions.")] = SEEDS,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="Choose learning rate and weight decay for each tying, on the validation split."
        ),
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data.", show_default="20, forecasts 25")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples in a step.", show_default="64, forecasts 32")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the optimizer.", show_default="0.002")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Of all but biases.", show_default="0.01")
    ] = None,
    optimizer: Annotated[OptimizerWord, typer.Option(help="What descends.")] = OptimizerWord.adamw,
    precision: Annotated[PrecisionWord, typer.Option(help="bfloat16 is autocast.")] = PrecisionWord.float32,
    compiled: Annotated[bool, typer.Option("--compile", help="Train through torch.compile.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Networks trained side by side.", show_default="one for each core, or each GPU"
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N.", show_default="the GPUs, if there are any")
    ] = None,
    ddp: Annotated[
        bool,
        typer.Option(
            "--ddp",
            help="Under torchrun: all ranks train each network together; batch normalisation then sees "
            "a rank's share of a batch alone.",
        ),
    ] = False,
    fsdp: Annotated[
        bool, typer.Option("--fsdp", help="As --ddp, with parameters spread over the ranks.")
    ] = False,
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

    Trains your network, or a small one, under each tying, from the same
    initial weights and on the same batches, and prints its error on a test
    split, with the paired difference from tied. What is finished is kept:
    --resume goes on.
    """
    with here(device, together=ddp or fsdp, sharded=fsdp) as place:
        if resume is None:
            known = None
            request = Request(
                data=_absolute(data),
                task=task.value,
                lead=lead,
                variable=variable,
                mask=missing == MissingWord.mask,
                model=model,
                where=where,
                tyings=None if tying is None else tuple(tying),
                seeds=seeds,
                tune=tune,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                optimizer=optimizer.value,
                precision=precision.value,
                compiled=compiled,
            )
            folder = place.told(lambda: _new_folder(out))
        else:
            _nothing_else(context)
            folder = resume
            known = place.told(lambda: _known_in(folder))
            request = Request.of(known, folder)
        begun = None if known is None else (int(str(known["jobs"])), int(str(known["threads"])))
        _run(request, folder, place, _side_by_side(place, jobs, begun), begun, as_json)


def _run(
    request: Request,
    folder: Path,
    place: Place,
    crew: tuple[int, int],
    begun: tuple[int, int] | None,
    as_json: bool,
) -> None:
    """The study itself.

    ``crew`` is how many networks are trained at a time, each with how many threads; ``begun`` how many it
    was when the study began, if it goes on.
    """
    jobs, threads = crew
    bench = request.bench(place.device, place.team)
    data = request.loaded
    asked = {
        **asdict(request),
        # How many at a time changes no number, threads do.
        **{"jobs": (begun or crew)[0], "threads": threads, "device": place.device.type},
        "checksum": checksum(*data.splits.values()),
        "networks": bench.fingerprint(range(request.seeds)),
        **{"convbias": __version__, "torch": torch.__version__},
    }
    run = place.told(lambda: Run(folder, asked))
    to_stderr = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not place.leads)
    to_stderr.print(f"{data.name}: {data.summary}.", markup=False)
    for note in data.notes:
        to_stderr.print(note, markup=False)
    how: Crew = place.crew or OneByOne()
    if jobs > 1:
        how = SideBySide(request.bench, place.devices(jobs), threads)
    else:
        torch.set_num_threads(threads)
        keep_freed()
    try:
        with run.alone() if place.leads else nullcontext():
            found = compare_on(
                bench,
                request.tyings,
                seeds=request.seeds,
                recipe=request.recipe,
                tune=request.tune,
                blocks=data.blocks,
                run=run,
                crew=how,
                costs=True,
            )
        report, written = {}, []
        if place.leads:
            found = replace(found, notes=(*data.notes, *found.notes), baseline=data.baseline)
            # Where the file lay is nobody else's affair, and its checksum says which one it was.
            if request.data is not None and Path(request.data).exists():
                asked["data"] = Path(request.data).name
            report = as_dict(found, data, asked)
            written = write(folder, found, data, report)
    except BaseException as error:
        if place.leads:
            finished = run.stop()
            # Where every network has failed, it would only fail again.
            if folder.exists() and not isinstance(error, NothingFinite):
                again = f"convbias study --resume {shlex.quote(str(folder))} goes on"
                to_stderr.print(f"stopped with {number(finished, 'finished trial')}; {again}", markup=False)
        raise
    if not place.leads:
        return
    if as_json:
        print(json_text(report))
        return
    to_stdout = Console(highlight=False)
    # In a narrower terminal numbers would be cut off: there it wraps the lines.
    wide = to_stdout if to_stdout.width >= NARROWEST else Console(highlight=False, width=NARROWEST)
    wide.print(table(found))
    if baseline(found):
        to_stdout.print(f"\n{baseline(found)}", markup=False)
    to_stdout.print(f"\n{verdict(found)}", style="bold", markup=False)
    if found.seeds > 1:
        to_stdout.print(f"\n{recommendation(found)}", markup=False)
        if code(found):
            to_stdout.print(f"\n{textwrap.indent(code(found), '    ')}", markup=False, soft_wrap=True)
        to_stdout.print(f"\n{legend(found, data.block)}", style="dim", markup=False)
    to_stderr.print(f"\nWritten to {folder}: {', '.join(written)}", markup=False)


def _side_by_side(place: Place, jobs: int | None, begun: tuple[int, int] | None) -> tuple[int, int]:
    """How many networks at a time, and threads for each: as before, where a study goes on."""
    if place.crew is not None or place.team.size > 1:
        if jobs is not None:
            raise ValueError(f"jobs={jobs}: torchrun says how many processes there are; leave --jobs out")
        return 1, torch.get_num_threads() if begun is None else begun[1]
    if begun is not None:
        return begun
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_a_time = jobs or (torch.cuda.device_count() if place.device.type == "cuda" else cores)
    return at_a_time, max(1, torch.get_num_threads() // at_a_time)


def _absolute(data: str | None) -> str | None:
    """A path as it is from anywhere; ``module:factory`` as it is."""
    return str(Path(data).absolute()) if data is not None and Path(data).exists() else data


def _new_folder(out: Path | None) -> Path:
    """``out``, or the first unused one of convbias-study, convbias-study-2, …"""
    if out is not None:
        if Run.request_in(out) is not None:
            raise OutputError(
                out, "holds a study already; --resume goes on with it, or choose another folder"
            )
        if out.is_dir() and any(out.iterdir()):
            raise OutputError(out, "holds other files; choose a new folder, or an empty one")
        return out
    names = (f"{DEFAULT_FOLDER}-{n}" if n > 1 else DEFAULT_FOLDER for n in itertools.count(1))
    return next(folder for folder in map(Path, names) if not folder.exists())


def _known_in(folder: Path) -> dict[str, object]:
    asked = Run.request_in(folder)
    if asked is None:
        raise OutputError(folder, "holds no study to resume")
    return asked


def _nothing_else(context: typer.Context) -> None:
    """Refuse options beside --resume: the study would not be the one that was begun."""
    for name in context.params:
        given = context.get_parameter_source(name)
        if name in ("resume", "as_json", "ddp", "fsdp", "device"):
            continue
        if given is not None and given.name == "COMMANDLINE":
            raise ValueError(f"resume: the folder knows the options; leave --{name.replace('_', '-')} out")
