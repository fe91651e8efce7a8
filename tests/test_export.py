"""torch.export and ONNX: an ordinary graph, for any batch, that needs convbias no longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import convbias
from layer_cases import SOME, Case, expected, over, plain

BATCH = torch.export.Dim("batch", min=1, max=64)

# Where the field is constant it is one initialiser; a grid's is computed from its points.
GRAPHS = {
    "none": ["Conv"],
    "tied": ["Conv"],
    "untied": ["Conv", "Add"],
    "c h": ["Conv", "Add"],
    "": ["Conv", "Add"],
    "c + h w": ["Conv", "Add"],
    "tap": ["Conv", "Add"],
    "rank:2": ["Conv", "Add"],
    "grid:3": ["Conv", "Add"],
    "sym:d4": ["Conv", "Add"],
    "Regions": ["Conv", "Add"],
}


@over(SOME)
def test_an_exported_program_computes_the_same_at_any_batch(case: Case, tmp_path: Path) -> None:
    layer = case.make()
    program = torch.export.export(layer, (case.input(),), dynamic_shapes=({0: BATCH},))
    plain_program = program.run_decompositions()
    used = {str(node.target) for node in plain_program.graph.nodes if node.op == "call_function"}
    assert not any("convbias" in name for name in used)
    torch.export.save(plain_program, tmp_path / "layer.pt2")
    again = torch.export.load(tmp_path / "layer.pt2")
    for batch in (1, 5):
        x = case.input(batch)
        for found in (program, plain_program, again):
            assert_close(found.module()(x), expected(layer, x))


def to_onnx(model: nn.Module, x: Tensor, dynamic: Any, path: Path) -> onnx.ModelProto:
    exported = torch.onnx.export(model.eval(), (x,), dynamo=True, dynamic_shapes=(dynamic,), verbose=False)
    assert exported is not None
    exported.save(path)
    return onnx.load(path)


def run(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())
    return torch.from_numpy(np.asarray(session.run(None, {name: x.numpy()})[0]))


@over(SOME)
def test_onnx_runtime_computes_the_same_at_any_batch(case: Case, tmp_path: Path) -> None:
    layer = case.make(torch.float32)
    to_onnx(layer, case.input(dtype=torch.float32), {0: BATCH}, tmp_path / "layer.onnx")
    for batch in (1, 5):
        x = case.input(batch, torch.float32)
        assert_close(run(tmp_path / "layer.onnx", x), expected(layer, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tying", GRAPHS)
def test_the_graph_is_convolution_and_addition(tying: str, tmp_path: Path) -> None:
    case = plain(tying)
    model = to_onnx(
        case.make(torch.float32), case.input(dtype=torch.float32), {0: BATCH}, tmp_path / "l.onnx"
    )
    assert [node.op_type for node in model.graph.node] == GRAPHS[tying]
    assert {entry.domain for entry in model.opset_import} == {""}


@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose2d"])
def test_a_tap_bias_follows_the_image_as_a_convolution_over_ones(kind: str, tmp_path: Path) -> None:
    layer = getattr(convbias, kind)(2, 3, 3, stride=2, padding=1, bias="tap", activation="relu")
    sizes = {0: BATCH, 2: torch.export.Dim("h", min=3, max=64), 3: torch.export.Dim("w", min=3, max=64)}
    model = to_onnx(layer, torch.randn(2, 2, 8, 9), sizes, tmp_path / "tap.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert sum(name in ("Conv", "ConvTranspose") for name in kinds) == 2
    for size in ((8, 9), (5, 12)):
        x = torch.randn(3, 2, *size)
        assert_close(run(tmp_path / "tap.onnx", x), layer(x), rtol=1e-4, atol=1e-5)
