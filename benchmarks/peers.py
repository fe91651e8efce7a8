"""A convolution with an untied bias and an activation by those who can do it, as functions to time.

Each gets the same tensors, float32, in channels_last or not.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from elsewhere import Elsewhere, installed
from torch import Tensor, nn
from torch.nn import functional as F

import convbias

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
FORMS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
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
        sides = len(set(self.size)) == 1 < len(self.size)
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
        convolve = CONVOLUTIONS[x.dim() - 3]
        return ACTIVATIONS[self.activation](convolve(x, self.weight, None, *self.layer.where) + self.bias)


class Consumed(nn.Module):
    """A layer, and a 1×1 convolution to 16 filters that reads its output."""

    def __init__(self, layer: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.layer, self.weight = layer, nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return CONVOLUTIONS[x.dim() - 3](self.layer(x), self.weight)


@dataclass(frozen=True)
class Ways:
    """The leaves of one layer, each way of running it, and what those with an untied bias have to give.

    The answer is that to the first and to the last image.
    """

    leaves: list[Tensor]
    runs: dict[str, Callable[[], Tensor]]
    served: dict[str, Elsewhere]
    answer: Tensor


def ways(
    layer: Layer, batch: int, device: str, activation: str, peers: set[str], chain: bool, contiguous: bool
) -> Ways:
    """``runs`` can be differentiated; those that are ``served`` by another process infer alone.

    In a ``chain`` each has a consumer behind it. All tensors are in channels_last, or ``contiguous``.
    """
    dims = len(layer.size)
    form = torch.contiguous_format if contiguous else FORMS[dims - 1]
    convolve = CONVOLUTIONS[dims - 1]
    into, out = layer.channels
    x = torch.randn(batch, into, *layer.size, device=device).to(memory_format=form)
    weight = torch.randn(out, into // layer.groups, *[layer.kernel] * dims, device=device)
    weight = (weight / weight[0].numel() ** 0.5).to(memory_format=form)
    with torch.no_grad():
        exact = convolve(x[[0, -1]].double(), weight.double(), None, *layer.where)
    bias = torch.randn_like(exact[:1].float()).to(memory_format=form)[0]
    answer = ACTIVATIONS[activation](exact + bias.double())
    eager = Untied(weight, bias, layer, activation)
    kind = (convbias.Conv1d, convbias.Conv2d, convbias.Conv3d)[dims - 1]
    ours = kind(
        *(into, out, layer.kernel, layer.stride, layer.kernel // 2, 1, layer.groups),
        bias="untied",
        output_size=tuple(exact.shape[2:]),
        activation=activation,
    )
    ours.load_state_dict({"weight": weight, "bias": bias})
    ours.to(device=device, memory_format=form)
    # One weight for all: who has another finds none of it in the caches.
    ours.weight = eager.weight
    tied = torch.randn(out, device=device, requires_grad=True)
    act = ACTIVATIONS[activation]
    x.requires_grad_()
    runs: dict[str, Callable[[], Tensor]] = {
        "bare": lambda: convolve(x, eager.weight, None, *layer.where),
        "eager tied": lambda: act(convolve(x, eager.weight, tied, *layer.where)),
        "eager": lambda: eager(x),
        "convbias": lambda: ours(x),
    }
    leaves = list(dict.fromkeys([x, *eager.parameters(), tied, *ours.parameters()]))
    network: nn.Module = eager
    if chain:
        consumer = torch.randn(16, out, *[1] * dims, device=device) / out**0.5
        answer = convolve(answer, consumer.double())
        network = consumed = Consumed(eager, consumer.to(memory_format=form))
        runs = {name: lambda run=run: convolve(run(), consumed.weight) for name, run in runs.items()}
    if "compile" in peers:
        compiled = torch.compile(network)
        runs["compile"] = lambda: compiled(x)
    if "max-autotune" in peers:
        tuned = torch.compile(network, mode="max-autotune")
        runs["max-autotune"] = lambda: tuned(x)
    return Ways(leaves, runs, _served(eager, network, x, peers) if device == "cpu" else {}, answer)


def _served(eager: Untied, network: nn.Module, x: Tensor, peers: set[str]) -> dict[str, Elsewhere]:
    """The same layer by other runtimes, those that read ONNX with its consumer."""
    image = x.detach().contiguous()
    given = {
        "x": image.numpy(),
        "weight": eager.weight.detach().contiguous().numpy(),
        "bias": eager.bias.detach().contiguous().numpy(),
        "layer": {
            **dict(zip(("stride", "padding", "dilation", "groups"), eager.layer.where, strict=True)),
            "activation": eager.activation,
        },
    }
    wanted = installed(peers)
    if not peers.isdisjoint(("onnxruntime", "openvino")):
        given["onnx"] = as_onnx(network, image)
    if network is not eager:
        wanted = [name for name in wanted if name in ("onnxruntime", "openvino")]
    if len(x) > 1 or eager.layer.groups > 1 or eager.layer.kernel != 3 or image.dim() != 4:
        wanted = [name for name in wanted if name != "ncnn"]
    return {name: Elsewhere(name, given, torch.get_num_threads()) for name in wanted}


def as_onnx(network: nn.Module, image: Tensor) -> bytes:
    """The network as an ONNX file."""
    file = io.BytesIO()
    torch.onnx.export(network, (image,), file, dynamo=True, verbose=False)
    return file.getvalue()
