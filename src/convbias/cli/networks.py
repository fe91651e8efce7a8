"""Networks and inputs from the words of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.export import Dim
from torch.nn import Module

from ..errors import DataError
from ..folding.archive import load_program
from ..folding.programs import axes_of, example_of
from ..study.factories import load_model
from ..verifying.networks import OnnxNetwork, network


@final
@dataclass(frozen=True)
class Given:
    """A network, what to call it with, and the axes of those that may have any size."""

    network: Any
    inputs: list[Tensor]
    axes: list[dict[int, object]] | None


def given(spec: str, sizes: Sequence[str] | None) -> Given:
    """The network that ``spec`` names: a .pt2 or .onnx file, or ``module:factory``.

    ``sizes`` are of its inputs, as in "1,3,224,224" or "1,3,224,224:uint8", "*" for axes of any size; a file
    knows its own.
    """
    inputs = None if not sizes else [_input(size) for size in sizes]
    free = [_free(size) for size in sizes or ()]
    if spec.endswith(".pt2"):
        program = load_program(spec)
        return Given(program, inputs or example_of(program), axes_of(program))
    if spec.endswith(".onnx"):
        found = network(spec)
        if not isinstance(found, OnnxNetwork):
            raise DataError(spec, "is no ONNX network")
        # Where the file does not know how many axes an input has, "*" says which of them are free.
        axes = [own or asked for own, asked in zip_longest(found.axes(), free, fillvalue={})]
        return Given(found, inputs or found.examples(), axes)
    if Path(spec).exists():
        raise DataError(spec, "must be a .pt2 or an .onnx file, or module:factory")
    if inputs is None:
        raise ValueError(f"model={spec}: needs the size of its input; say --input 1,3,224,224")
    model: Module = load_model(spec)().eval()
    return Given(model, inputs, free if any(free) else None)


def _free(text: str) -> dict[int, object]:
    """The axes of any size."""
    sizes = text.partition(":")[0].split(",")
    return {axis: Dim.AUTO for axis, size in enumerate(sizes) if size == "*"}


def _input(text: str) -> Tensor:
    sizes, _, kind = text.partition(":")
    # A batch of two images, and images that are not small.
    sizes = ",".join(size.replace("*", "64" if axis else "2") for axis, size in enumerate(sizes.split(",")))
    dtype = getattr(torch, kind or "float32", None)
    try:
        shape = [int(size) for size in sizes.split(",")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1 or not isinstance(dtype, torch.dtype):
        raise ValueError(
            f"input={text}: must be sizes, as in 1,3,224,224, or with a type, as in 1,3,32,32:uint8"
        )
    generator = torch.Generator().manual_seed(0)
    try:
        if dtype.is_floating_point or dtype.is_complex:
            return torch.randn(shape, generator=generator, dtype=dtype)
        return torch.randint(0, 2 if dtype == torch.bool else 128, shape, generator=generator).to(dtype)
    except (RuntimeError, NotImplementedError) as error:  # too large, or a type without arithmetic
        raise ValueError(f"input={text}: cannot be made, {str(error).splitlines()[0]}") from error
