"""``convbias verify``: whether two networks are the same function, whoever rewrote them."""

from __future__ import annotations

import json
from typing import Annotated

from torch.export import ExportedProgram

from ..errors import extra
from ..folding.programs import check_inputs
from ..verifying import verify as verified
from .networks import given

with extra("study"):
    import typer
    from rich.console import Console

EXAMPLES = """Examples:

convbias verify model.onnx simplified.onnx

convbias verify model.pt2 folded.pt2 --json

convbias verify nets:make nets:make_folded --input 1,3,224,224

Exit status: 0 the same function, 1 not the same, 2 bad input.
"""
DIFFERENT = 1


def verify(
    first: Annotated[str, typer.Argument(help="A .pt2 or .onnx file, or module:factory.")],
    second: Annotated[str, typer.Argument(help="The same: what should be the same function.")],
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="The size of an input, as in 1,3,224,224 or 1,3,32,32:uint8; once for each.",
            show_default="the first file's",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="The largest difference that counts as rounding, relative to the channel's largest output.",
            show_default="what the numbers' precision explains",
        ),
    ] = None,
    random_statistics: Annotated[
        bool,
        typer.Option(
            "--random-statistics", help="Give both random normalisations: fresh ones hide differences."
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the verdict as JSON; a difference is null where it is infinite."),
    ] = False,
) -> None:
    """Are two networks the same function?

    Compares them on random inputs, constants and impulses at corners and
    edges, at several sizes where sizes are dynamic, and calls the second one
    again: the border and the interior are told apart, and the worst place
    is named.
    """
    one = given(first, sizes)
    if isinstance(one.network, ExportedProgram):
        check_inputs(one.network, one.inputs)
    other = given(second, sizes or ["1"])
    with Console(stderr=True).status(f"{first}, {second}: comparing"):
        verdict = verified(
            one.network,
            other.network,
            one.inputs,
            dynamic_shapes=one.axes,
            random_statistics=random_statistics,
            tolerance=tolerance,
        )
    print(json.dumps(verdict.to_dict(), indent=2, allow_nan=False) if as_json else verdict)
    if not verdict:
        raise typer.Exit(DIFFERENT)
