"""Networks as exported programs: what they are called with, and how they get into a file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.nn import Module

from ..ops.library import convolution
from ..outputs import write_whole
from ..verifying.inputs import example
from .graph import hint_of
from .rewrite import of_any_layout


def example_of(program: ExportedProgram) -> list[Tensor]:
    """Inputs such as the program was exported with: its own example, or random ones of those sizes."""
    if program.example_inputs is not None and is_plain(program.example_inputs):
        return list(program.example_inputs[0])
    generator = torch.Generator().manual_seed(0)
    return [example(hint_of(value), value.dtype, generator) for value in _inputs(program)]


def is_plain(example: Any) -> bool:
    """Whether what a program was exported with are tensors, one for each input."""
    return (
        isinstance(example, tuple)
        and len(cast(tuple[Any, ...], example)) == 2
        and isinstance(example[0], tuple)
        and all(isinstance(x, Tensor) for x in cast(tuple[Any, ...], example[0]))
        and example[1] == {}
    )


def axes_of(program: ExportedProgram) -> list[dict[int, object]]:
    """The axes of each input that may have any size."""
    return [
        {axis: Dim.AUTO for axis, n in enumerate(value.shape) if isinstance(n, torch.SymInt)}
        for value in _inputs(program)
    ]


def check_inputs(program: ExportedProgram, inputs: Sequence[Tensor]) -> None:
    """Raise ValueError for inputs of other sizes or types than the program was exported with."""
    taken = _inputs(program)
    if len(inputs) != len(taken):
        raise ValueError(f"input: {len(inputs)} given, and the file's network takes {len(taken)}")
    for x, value in zip(inputs, taken, strict=True):
        given = f"input={','.join(map(str, x.shape))}"
        # To compare a size that is a symbol with a number would make it that number.
        fits = [not isinstance(m, int) or n == m for n, m in zip(x.shape, value.shape, strict=False)]
        if x.dim() != value.dim() or not all(fits):
            sizes = ",".join(str(n) if isinstance(n, int) else "*" for n in value.shape)
            raise ValueError(f"{given}: the file's network takes {sizes}")
        if x.dtype != value.dtype:
            raise ValueError(f"{given}: is of {x.dtype}, and the file's network takes {value.dtype}")


def exported(
    model: Module, inputs: Sequence[Tensor], axes: list[dict[int, object]] | None = None
) -> ExportedProgram:
    """``model`` as a program of torch's own operators, which runs where convbias is not installed."""
    program = torch.export.export(model, tuple(inputs), dynamic_shapes=axes, strict=False)
    with warnings.catch_warnings():
        # torch copies its own tree specs in a way that it warns of.
        warnings.simplefilter("ignore", FutureWarning)
        program = program.run_decompositions({torch.ops.convbias.convolution.default: convolution})
    of_any_layout(program.graph_module)
    return program


def save(program: ExportedProgram, path: Path) -> None:
    """Write ``program`` to a .pt2 file, whole or not at all."""
    # In memory first: torch's own writer ends the process where a disk is full.
    content = io.BytesIO()
    try:
        torch.export.save(program, content)
    except NotImplementedError as error:  # structures of types that a reader would have to import
        raise ValueError(
            f"output={path}: torch.export cannot write what the network takes or returns: {error}; "
            "make it of tuples, lists and dicts"
        ) from error
    write_whole(path, lambda unfinished: unfinished.write_bytes(content.getbuffer()))


def _inputs(program: ExportedProgram) -> list[Tensor]:
    names = set(program.graph_signature.user_inputs)
    return [
        node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names
    ]
