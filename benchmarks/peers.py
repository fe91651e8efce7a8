"""A convolution with an untied bias and an activation by those who can do it, as functions to time.

A peer that is not installed is left out. Each gets the same tensors, channels_last, float32.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convbias

Run = Callable[[], object]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


@dataclass(frozen=True)
class Layer:
    """A convolution and the size of its input."""

    channels: tuple[int, int]
    kernel: int
    size: tuple[int, ...]
    stride: int = 1
    groups: int = 1

    def __str__(self) -> str:
        sides = len(set(self.size)) == 1
        kind = "depthwise " if self.groups > 1 else ""
        power = "²" if len(self.size) == 2 else "³"
        size = f"{self.size[0]}{power}" if sides else "×".join(map(str, self.size))
        kernel = "×".join([str(self.kernel)] * len(self.size))
        return f"{kind}{kernel} {self.channels[0]}→{self.channels[1]} @{size}"

    @property
    def where(self) -> tuple[int, int, int, int]:
        """Stride, padding, dilation, groups."""
        return self.stride, self.kernel // 2, 1, self.groups


class Untied(nn.Module):
    """What people write: a convolution without a bias, plus a parameter of the output's shape, activated."""

    def __init__(self, weight: Tensor, bias: Tensor, layer: Layer, activation: str) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        self.layer, self.activation = layer, activation

    def forward(self, x: Tensor) -> Tensor:
        convolve = F.conv2d if x.dim() == 4 else F.conv3d
        return ACTIVATIONS[self.activation](convolve(x, self.weight, None, *self.layer.where) + self.bias)


@dataclass(frozen=True)
class Ways:
    """The leaves of one layer, each way of running it, and what those with an untied bias have to give."""

    leaves: list[Tensor]
    runs: dict[str, Callable[[], Tensor]]
    served: dict[str, Run]
    answer: Tensor


def ways(layer: Layer, batch: int, device: str, activation: str, peers: set[str]) -> Ways:
    """``runs`` can be differentiated; ``served`` (ONNX Runtime, OpenVINO) infer alone."""
    dims = len(layer.size)
    form = torch.channels_last if dims == 2 else torch.channels_last_3d
    convolve = F.conv2d if dims == 2 else F.conv3d
    into, out = layer.channels
    x = torch.randn(batch, into, *layer.size, device=device).to(memory_format=form)
    weight = torch.randn(out, into // layer.groups, *[layer.kernel] * dims, device=device)
    weight = (weight / weight[0].numel() ** 0.5).to(memory_format=form)
    with torch.no_grad():
        exact = convolve(x[:1].double(), weight.double(), None, *layer.where)
    bias = torch.randn_like(exact[:1].float()).to(memory_format=form)[0]
    answer = ACTIVATIONS[activation](exact + bias.double())
    eager = Untied(weight, bias, layer, activation)
    kind = (convbias.Conv2d, convbias.Conv3d)[dims - 2]
    ours = kind(
        *(into, out, layer.kernel, layer.stride, layer.kernel // 2, 1, layer.groups),
        bias="untied",
        output_size=tuple(exact.shape[2:]),
        activation=activation,
    )
    ours.load_state_dict({"weight": weight, "bias": bias})
    ours.to(device=device, memory_format=form)
    tied = torch.randn(out, device=device, requires_grad=True)
    act = ACTIVATIONS[activation]
    x.requires_grad_()
    runs: dict[str, Callable[[], Tensor]] = {
        "bare": lambda: convolve(x, eager.weight, None, *layer.where),
        "eager tied": lambda: act(convolve(x, eager.weight, tied, *layer.where)),
        "eager": lambda: eager(x),
        "convbias": lambda: ours(x),
    }
    if "compile" in peers:
        compiled = torch.compile(eager)
        runs["compile"] = lambda: compiled(x)
    if "max-autotune" in peers:
        tuned = torch.compile(eager, mode="max-autotune")
        runs["max-autotune"] = lambda: tuned(x)
    leaves = [x, eager.weight, eager.bias, tied, *ours.parameters()]
    return Ways(leaves, runs, _served(eager, x, peers) if device == "cpu" else {}, answer)


def _served(eager: nn.Module, x: Tensor, peers: set[str]) -> dict[str, Run]:
    """The same layer by the runtimes that take an ONNX file."""
    wanted = [
        name for name in ("onnxruntime", "openvino") if name in peers and importlib.util.find_spec(name)
    ]
    if not wanted:
        return {}
    file = io.BytesIO()
    image = x.detach().contiguous()
    torch.onnx.export(eager, (image,), file, dynamo=True, verbose=False)
    served: dict[str, Run] = {}
    if "onnxruntime" in wanted:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: image.numpy()}
        served["onnxruntime"] = lambda: session.run(None, feed)[0]
    if "openvino" in wanted:
        import openvino

        core = openvino.Core()
        config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        request = core.compile_model(core.read_model(file.getvalue()), "CPU", config).create_infer_request()
        request.set_input_tensor(openvino.Tensor(image.numpy(), shared_memory=True))

        def infer() -> object:
            request.infer()
            return request.get_output_tensor().data

        served["openvino"] = infer
    return served
