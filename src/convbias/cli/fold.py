"""``convbias fold``: a network rewritten exactly, checked, and written to a file."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from torch.export import ExportedProgram

from ..errors import OutputError, extra
from ..folding import LAWS, Folded
from ..folding import fold as folded
from ..folding.programs import check_inputs, exported, save
from ..folding.timing import interleaved
from ..verifying import verify
from .networks import given

with extra("study"):
    import typer
    from rich.console import Console
    from rich.table import Table

EXAMPLES = f"""Examples:

convbias fold --model nets:make --input 1,3,224,224 -o folded.pt2

convbias fold model.pt2 -o folded.pt2 --measure

convbias fold model.pt2 --force all  (every legal law, whatever it costs)

The laws: {", ".join(LAWS)}.

Exit status: 0 done, 3 nothing to fold, 2 bad input, 1 a rewriting that disagrees (nothing is written).
"""
NOTHING, WRONG = 3, 1


class TargetWord(StrEnum):
    """How the folded network will run."""

    eager = "eager"
    inductor = "inductor"
    convbias = "convbias"


def fold(
    file: Annotated[
        str | None, typer.Argument(help="A .pt2 file of torch.export.save.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="module:factory, a function that makes the network.", show_default=False),
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="The size of an input, as in 1,3,224,224 or 1,3,32,32:uint8, * for any; once for each.",
            show_default="the file's",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The .pt2 file to write.", show_default="none"),
    ] = None,
    target: Annotated[TargetWord, typer.Option(help="What the network will run on.")] = TargetWord.eager,
    force: Annotated[
        list[str] | None,
        typer.Option(help="A law to apply at any cost, or all; repeat it.", show_default=False),
    ] = None,
    forbid: Annotated[
        list[str] | None, typer.Option(help="A law to leave alone, or all; repeat it.", show_default=False)
    ] = None,
    measure: Annotated[bool, typer.Option(help="Time the network before and after, in turn.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Rewrite my network exactly into fewer convolutions.

    Whatever is affine around a convolution joins it, as weight and bias
    field: normalisations, constant channels, position embeddings, parallel
    branches, paddings. Each rewriting is checked, borders included.
    """
    spec = _one(file, model)
    if output is not None:
        _check_output(output, file)
    known = given(spec, sizes)
    if isinstance(known.network, ExportedProgram):
        check_inputs(known.network, known.inputs)
    progress = Console(stderr=True, highlight=False, soft_wrap=True)
    with progress.status(f"{spec}: folding") as status:
        done = folded(
            known.network,
            known.inputs,
            dynamic_shapes=known.axes,
            target=target.value,
            force=force or (),
            forbid=forbid or (),
            on_fold=lambda row: status.update(f"{spec}: {row.layer}, {row.law}"),
        )
        program = None
        if done.report.folded and output is not None:
            status.update(f"{spec}: exporting")
            program = exported(done.model, known.inputs, known.axes)
            rounding = None if done.verdict is None else done.verdict.tolerance
            verdict = verify(
                known.network, program, known.inputs, dynamic_shapes=known.axes, tolerance=rounding
            )
            if not verdict:
                raise_wrong(progress, f"the exported network disagrees, and was not written: {verdict}")
    report = {**done.report.to_dict(), "verdict": None if done.verdict is None else done.verdict.to_dict()}
    times = None
    if measure and done.report.folded:
        original: Any = known.network
        original = original.module(check_guards=False) if isinstance(original, ExportedProgram) else original
        times = interleaved(original, done.model, known.inputs)
        report["seconds"] = {"before": times[0], "after": times[1]}
    if program is not None and output is not None:
        save(program, output)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _print(done, times)
    if not done.report.folded:
        raise typer.Exit(NOTHING)
    if output is not None:
        progress.print(f"Written to {output}", markup=False)


def raise_wrong(console: Console, told: str) -> None:
    """Say what went wrong and leave."""
    console.print(f"error: {told}", markup=False)
    raise typer.Exit(WRONG)


def _one(file: str | None, model: str | None) -> str:
    if (file is None) == (model is None):
        raise ValueError("model: give a .pt2 file, or --model module:factory; one of both")
    if file is not None and not file.endswith(".pt2"):
        raise ValueError(f"file={file}: must be a .pt2 file of torch.export.save")
    return str(model or file)


def _check_output(output: Path, file: str | None) -> None:
    if output.suffix != ".pt2":
        raise OutputError(output, "must end in .pt2, which is what is written")
    if not output.absolute().parent.is_dir():
        raise OutputError(output, "its folder is not there; make it first")
    if file is not None and output.exists() and output.samefile(file):
        raise OutputError(output, "is the network itself, which is left as it is; choose another name")


def _print(done: Folded, times: tuple[float, float] | None) -> None:
    console = Console(highlight=False)
    rows = Table(box=None, pad_edge=False)
    for name in ("layer", "law", "takes up", "bias", "operators", "MMAC", "MiB moved"):
        rows.add_column(name, overflow="fold")
    for row in done.report.folded:
        rows.add_row(row.layer, row.law, ", ".join(row.gone), row.bias, *row.before.beside(row.after))
    if done.report.folded:
        console.print(rows)
    if done.report.refused:
        refused = Table(box=None, pad_edge=False)
        for name in ("not folded", "law", "because"):
            refused.add_column(name, overflow="fold")
        for place in done.report.refused:
            refused.add_row(place.layer, place.law, place.reason)
        console.print(*([""] if done.report.folded else []), refused, sep="\n")
    if not done.report.folded:
        console.print("Nothing to fold.", style="bold")
        return
    console.print(f"\n{done.report.before.told(done.report.after)}", markup=False)
    if times is not None:
        before, after = times
        console.print(
            f"{1000 * before:.2f} ms -> {1000 * after:.2f} ms ({after / before:.2f}×), medians in turn"
        )
    if done.verdict is not None:
        console.print(f"Checked: {done.verdict}", markup=False)
