"""What optimizers do with what is affine around a convolution, and whether it is still the same function.

    pip install onnxsim onnxslim openvino      (each is left out where it is missing)
    python benchmarks/folding_peers.py         (the table of docs/folding.md)
    python benchmarks/folding_peers.py --times (ours: time folded / original, batch 1 and 8)

For every pattern and tool: the operators left and, where ``convbias.verify`` finds another function, how far
its output is off on the border and inside, relative to the largest output.
"""

from __future__ import annotations

import copy
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import convbias
from convbias.folding.timing import interleaved
from convbias.verifying import randomised


class Net(nn.Module):
    def __init__(self, run: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1))
        self.register_buffer("row", torch.randn(64))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def conv(inputs: int, outputs: int, kernel: Any = 3, padding: Any = 1, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, **more)


def coordinates(x: Tensor) -> Tensor:
    rows, columns = torch.linspace(-1, 1, x.shape[2]), torch.linspace(-1, 1, x.shape[3])
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return torch.cat([x, grid.expand(len(x), -1, -1, -1)], 1)


def repvgg() -> nn.Module:
    layers = {"c3": conv(8, 8, bias=False), "c1": conv(8, 8, 1, 0, bias=False)}
    norms = {name: nn.BatchNorm2d(8) for name in ("b3", "b1", "b0")}
    return Net(lambda n, x: n.b3(n.c3(x)) + n.b1(n.c1(x)) + n.b0(x), **layers, **norms)


def acnet() -> nn.Module:
    layers = {"a": conv(8, 8), "b": conv(8, 8, (3, 1), (1, 0)), "c": conv(8, 8, (1, 3), (0, 1))}
    return Net(lambda n, x: n.a(x) + n.b(x) + n.c(x), **layers)


# The network and the size of its input.
PATTERNS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv, BatchNorm": (lambda: nn.Sequential(conv(8, 8), nn.BatchNorm2d(8)), (1, 8, 16, 16)),
    "BatchNorm, padded conv": (lambda: nn.Sequential(nn.BatchNorm2d(8), conv(8, 8)), (1, 8, 16, 16)),
    "BatchNorm, conv": (lambda: nn.Sequential(nn.BatchNorm2d(8), conv(8, 8, 3, 0)), (1, 8, 16, 16)),
    "conv, ReLU, BatchNorm, padded conv": (
        lambda: nn.Sequential(conv(8, 8), nn.ReLU(), nn.BatchNorm2d(8), conv(8, 8)),
        (1, 8, 16, 16),
    ),
    "(x − mean)/std, padded conv": (
        lambda: Net(lambda n, x: n.conv((x - n.mean) / n.std), conv=conv(3, 8)),
        (1, 3, 16, 16),
    ),
    "1×1, padded 3×3": (lambda: nn.Sequential(conv(8, 8, 1, 0), conv(8, 8)), (1, 8, 16, 16)),
    "RepVGG block": (repvgg, (1, 8, 16, 16)),
    "ACNet block": (acnet, (1, 8, 16, 16)),
    "CoordConv": (lambda: Net(lambda n, x: n.conv(coordinates(x)), conv=conv(10, 8)), (1, 8, 16, 16)),
    "pad with 0.5, conv": (lambda: nn.Sequential(nn.ConstantPad2d(1, 0.5), conv(8, 8, 3, 0)), (1, 8, 16, 16)),
    "trap: conv · [W], W = C": (
        lambda: Net(lambda n, x: n.conv(x) * n.row[:8], conv=conv(8, 8)),
        (1, 8, 8, 8),
    ),
    "trap: x · [3], padded 3×3 on 3 columns": (
        lambda: Net(lambda n, x: n.conv(x * n.row[:3]), conv=conv(8, 8)),
        (1, 8, 8, 3),
    ),
}


class Missing(Exception):
    """A tool that is not installed."""


def onnx_of(model: nn.Module, x: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (x,), dynamo=True, optimize=True, verbose=False)
    return program.model_proto  # pyright: ignore


def operators(proto: Any) -> str:
    left = [node.op_type for node in proto.graph.node if node.op_type not in ("Constant", "Identity")]
    return str(len(left))


def ours(model: nn.Module, x: Tensor) -> tuple[Any, str]:
    folded = convbias.fold(model, x, force="all")
    return folded.model, str(folded.report.after.nodes)


def fx_fuse(model: nn.Module, x: Tensor) -> tuple[Any, str]:
    from torch.fx.experimental.optimization import fuse

    fused = fuse(copy.deepcopy(model))
    calls = [n for n in fused.graph.nodes if n.op in ("call_function", "call_method", "call_module")]
    return fused, str(len(calls))


def inductor(model: nn.Module, x: Tensor) -> tuple[Any, str]:
    import torch._inductor.config as config

    torch._dynamo.reset()
    with config.patch(freezing=True), torch.no_grad():
        compiled = torch.compile(copy.deepcopy(model))
        compiled(x)

    class Frozen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with config.patch(freezing=True), torch.no_grad():
                return compiled(x.float())

    return Frozen().eval(), "·"


def onnxruntime(model: nn.Module, x: Tensor) -> tuple[Any, str]:
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 3
        ort.InferenceSession(onnx_of(model, x).SerializeToString(), options, ["CPUExecutionProvider"])
        proto = onnx.load(options.optimized_model_filepath)
    return proto, operators(proto)


def onnxsim(model: nn.Module, x: Tensor) -> tuple[Any, str]:
    try:
        import onnxsim as tool
    except ImportError as error:
        raise Missing from error
    proto, _ = tool.simplify(onnx_of(model, x))
    return proto, operators(proto)


def onnxslim(model: nn.Module, x: Tensor) -> tuple[Any, str]:
    try:
        import onnxslim as tool
    except ImportError as error:
        raise Missing from error
    proto = tool.slim(onnx_of(model, x))
    return proto, operators(proto)


def openvino(model: nn.Module, x: Tensor) -> tuple[Any, str]:
    try:
        import openvino as tool
    except ImportError as error:
        raise Missing from error
    core = tool.Core()
    read = core.read_model(io.BytesIO(onnx_of(model, x).SerializeToString()))
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    skipped = {"Input", "Output", "Const", "Reorder", "Reshape"}
    kinds = [op.get_rt_info()["layerType"].value for op in compiled.get_runtime_model().get_ops()]

    class Compiled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(compiled([x.float().numpy()])[0].copy())

    return Compiled().eval(), str(sum(kind not in skipped for kind in kinds))


def plain_stem(model: nn.Module, x: Tensor) -> tuple[Any, str]:
    """The formula of gists: mean and std into the first convolution's weight and tied bias."""
    if not isinstance(model, Net) or "mean" not in dict(model.named_buffers()) or x.shape[1] != 3:
        return None, ""
    made = conv(3, 8)
    with torch.no_grad():
        made.weight.copy_(model.conv.weight / model.std)
        made.bias.copy_(model.conv.bias - (model.conv.weight * model.mean / model.std).sum((1, 2, 3)))
    return made.eval(), "1"


TOOLS: dict[str, Callable[[nn.Module, Tensor], tuple[Any, str]]] = {
    "convbias": ours,
    "fx.fuse": fx_fuse,
    "Inductor, frozen": inductor,
    "ONNX Runtime": onnxruntime,
    "onnxsim": onnxsim,
    "OnnxSlim": onnxslim,
    "OpenVINO": openvino,
    "plain-bias stem": plain_stem,
}


def cell(tool: Callable[[nn.Module, Tensor], tuple[Any, str]], model: nn.Module, x: Tensor) -> str:
    try:
        made, count = tool(model, x)
    except Missing:
        return "–"
    except Exception as error:
        return f"fails ({type(error).__name__})"
    if made is None:
        return ""
    verdict = convbias.verify(model, made, [x])
    if verdict:
        return count
    worst = verdict.worst
    return f"**wrong**: {worst.failure or f'border {worst.border:.2g}, interior {worst.interior:.2g}'}"


def table() -> None:
    print(f"| pattern | {' | '.join(TOOLS)} |")
    print("|---|" + "---|" * len(TOOLS))
    for name, (make, size) in PATTERNS.items():
        torch.manual_seed(0)
        model, x = randomised(make()).eval(), torch.randn(size)
        cells = [cell(tool, model, x) for tool in TOOLS.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


# Whole networks and the size of one image: those of which it is known what folding pays.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1×1 (×2), 3×3, five times": (
        lambda: nn.Sequential(
            *(layer for _ in range(5) for layer in (conv(64, 128, 1, 0), conv(128, 64), nn.ReLU()))
        ),
        (64, 56, 56),
    ),
    "RepVGG blocks, five": (
        lambda: nn.Sequential(*(layer for _ in range(5) for layer in (wide_repvgg(64), nn.ReLU()))),
        (64, 56, 56),
    ),
    "BatchNorm, 1×1, five times": (
        lambda: nn.Sequential(
            *(layer for _ in range(5) for layer in (nn.ReLU(), nn.BatchNorm2d(128), conv(128, 128, 1, 0)))
        ),
        (128, 28, 28),
    ),
    "conv, ReLU, BatchNorm (Keras's order), six": (
        lambda: nn.Sequential(
            conv(3, 64), *(layer for _ in range(5) for layer in (nn.ReLU(), nn.BatchNorm2d(64), conv(64, 64)))
        ),
        (3, 64, 64),
    ),
    "CoordConv, three": (
        lambda: nn.Sequential(
            *(Net(lambda n, x: n.conv(coordinates(x)).relu(), conv=conv(34, 32)) for _ in range(3))
        ),
        (32, 96, 96),
    ),
    "normalise, patches, positions": (
        lambda: Net(
            lambda n, x: n.patches((x - n.mean) / n.std) + n.position.map,
            patches=nn.Conv2d(3, 192, 16, 16),
            position=Position(192, 14),
        ),
        (3, 224, 224),
    ),
    "normalise, padded stem": (
        lambda: Net(lambda n, x: n.conv((x - n.mean) / n.std).relu(), conv=nn.Conv2d(3, 64, 7, 2, 3)),
        (3, 224, 224),
    ),
}


class Position(nn.Module):
    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.randn(1, channels, size, size))


def wide_repvgg(width: int) -> nn.Module:
    layers = {"c3": conv(width, width, bias=False), "c1": conv(width, width, 1, 0, bias=False)}
    norms = {name: nn.BatchNorm2d(width) for name in ("b3", "b1", "b0")}
    return Net(lambda n, x: n.b3(n.c3(x)) + n.b1(n.c1(x)) + n.b0(x), **layers, **norms)


def times() -> None:
    """Each network beside what ``fold`` makes of it for eager, and for convbias's own kernels."""
    targets = ("eager", "convbias")
    columns = [f"{target}, batch {batch}" for target in targets for batch in (1, 8)]
    print(f"| network | {' | '.join(columns)} | operators |")
    print("|---" * (len(columns) + 2) + "|")
    for name, (make, size) in NETWORKS.items():
        torch.manual_seed(0)
        model = randomised(make()).eval().to(memory_format=torch.channels_last)
        ratios: list[str] = []
        counts: list[str] = []
        for target in targets:
            for batch in (1, 8):
                x = torch.randn(batch, *size).to(memory_format=torch.channels_last)
                folded = convbias.fold(model, x, target=target)
                made = folded.model.to(memory_format=torch.channels_last)
                before, after = interleaved(model, made, [x])
                ratios.append(f"{after / before:.2f}")
            counts.append(f"{folded.report.before.nodes} → {folded.report.after.nodes}")
        print(f"| {name} | {' | '.join(ratios)} | {', '.join(dict.fromkeys(counts))} |", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    times() if "--times" in sys.argv else table()
