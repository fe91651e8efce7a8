"""The table of layers that the tests of composition, compilation, export and distribution share.

``ALL`` is every layer of ``LAYERS`` with every tying it can have; ``SOME`` is a walk through it that
meets each layer and each tying, for laws that take long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import convbias
from convbias import Geometry, Regions, Tying, parse
from convbias.nn.convnd import ConvNd
from convbias.ops import reference

BATCH = 3


@dataclass(frozen=True)
class Layer:
    """A convolution without its bias, and the size of its input."""

    kind: str
    channels: tuple[int, int]
    kernel_size: int | tuple[int, ...]
    size: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def dims(self) -> int:
        return len(self.size)

    @property
    def output_size(self) -> tuple[int, ...]:
        given = {k: v for k, v in self.options.items() if k not in ("groups", "activation")}
        transposed = "Transpose" in self.kind
        geometry = Geometry.of(self.dims, self.kernel_size, **given, transposed=transposed)
        return geometry.output_size(self.size)


def _layer(
    kind: str,
    channels: tuple[int, int],
    kernel_size: int | tuple[int, ...],
    size: tuple[int, ...],
    **options: Any,
) -> Layer:
    return Layer(kind, channels, kernel_size, size, options)


# Images are not square (but where "square" says so, for the square's symmetries) and no axis is as long as
# the batch, so that no axis can be taken for another.
LAYERS = {
    "1d same uneven": _layer("Conv1d", (2, 3), 4, (7,), padding="same", activation="gelu"),
    "1d strided": _layer("Conv1d", (2, 4), 3, (9,), stride=2, padding=2, dilation=2, groups=2),
    "2d": _layer("Conv2d", (2, 3), 3, (5, 6), padding=1),
    "2d square": _layer("Conv2d", (2, 4), 3, (6, 6), padding=1, activation="silu"),
    "2d pointwise": _layer("Conv2d", (2, 3), 1, (5, 4), activation="tanh"),
    "2d strided": _layer(
        "Conv2d", (4, 2), (3, 2), (7, 6), stride=(2, 1), padding=(1, 0), groups=2, activation="relu"
    ),
    "2d dilated": _layer("Conv2d", (2, 3), 3, (5, 6), padding=(2, 1), dilation=2),
    "2d depthwise reflect": _layer("Conv2d", (2, 2), 3, (4, 5), padding=2, padding_mode="reflect", groups=2),
    "2d circular": _layer(
        "Conv2d", (1, 3), 2, (4, 5), padding=1, padding_mode="circular", activation="sigmoid"
    ),
    "2d same replicate": _layer(
        "Conv2d", (2, 3), (2, 3), (5, 4), padding="same", padding_mode="replicate", activation="leaky_relu"
    ),
    "3d strided": _layer("Conv3d", (1, 2), (1, 2, 3), (2, 4, 5), stride=(1, 2, 1), padding=1),
    "3d same uneven square": _layer("Conv3d", (2, 2), 2, (2, 4, 4), padding="same", activation="hardswish"),
    "1d transposed": _layer("ConvTranspose1d", (2, 3), 3, (4,), stride=2, padding=1, output_padding=1),
    "2d transposed": _layer("ConvTranspose2d", (2, 3), 2, (2, 4), stride=2, activation="gelu_tanh"),
    "2d transposed grouped": _layer(
        "ConvTranspose2d",
        (2, 4),
        (3, 2),
        (4, 2),
        stride=(2, 3),
        padding=(1, 0),
        output_padding=(1, 2),
        groups=2,
    ),
    "2d transposed square": _layer(
        "ConvTranspose2d", (2, 1), 3, (2, 2), stride=2, dilation=2, padding=1, output_padding=1
    ),
    "3d transposed": _layer("ConvTranspose3d", (1, 2), 2, (2, 2, 3), stride=(1, 2, 2), dilation=(2, 1, 1)),
}

# Written for two dimensions; "h" and "w" are the first and the last spatial axis where there are others.
TYINGS = [
    *("tied", "none", "untied", "c h", "h w", "", "tap", "c + h w", "c h + c w", "c + tap"),
    *("rank:2", "grid:3", "sym:flip_h", "sym:flip_w", "sym:d4", "Regions"),
]
AXES = {1: ("l", "l", "l"), 2: ("h", "w", "h w"), 3: ("d", "w", "h w")}

WALK = [
    ("tied", "1d same uneven"),
    ("tied", "3d transposed"),
    ("none", "2d strided"),
    ("untied", "2d depthwise reflect"),
    ("untied", "3d strided"),
    ("untied", "2d transposed"),
    ("c h", "2d"),
    ("c h", "1d strided"),
    ("h w", "2d strided"),
    ("", "2d circular"),
    ("tap", "2d dilated"),
    ("tap", "2d transposed grouped"),
    ("tap", "3d same uneven square"),
    ("c + h w", "2d pointwise"),
    ("c h + c w", "2d same replicate"),
    ("c + tap", "2d"),
    ("rank:2", "2d"),
    ("grid:3", "1d transposed"),
    ("grid:3", "2d same replicate"),
    ("sym:flip_h", "2d pointwise"),
    ("sym:flip_w", "1d same uneven"),
    ("sym:d4", "2d transposed square"),
    ("sym:d4", "2d square"),
    ("Regions", "2d"),
]


def tying_of(name: str, layer: Layer) -> Tying | None:
    """The tying ``name`` of TYINGS with the axes of ``layer``, or None if that cannot have it."""
    size = layer.output_size
    first, last, tail = AXES[layer.dims]
    if name == "Regions":
        places = torch.Size(size).numel()
        return Regions((torch.arange(places) * 7 % 5).reshape(size))
    if (name == "sym:d4" and (layer.dims == 1 or size[-1] != size[-2])) or (
        name == "c h + c w" and first == last
    ):
        return None
    if name.startswith("sym:flip_"):
        return parse(f"sym:flip_{first if name.endswith('h') else last}")
    if name[:4] in ("rank", "grid", "sym:", "tap", "tied", "none", "unti"):
        return parse(name)
    return parse(name.replace("h w", "TAIL").replace("h", first).replace("w", last).replace("TAIL", tail))


@dataclass(frozen=True)
class Case:
    """A layer with its bias: what the laws run over."""

    name: str
    layer: Layer
    tying: Tying

    def make(self, dtype: torch.dtype = torch.float64, **options: Any) -> ConvNd:
        """The layer, its bias drawn anew: no entry equals another merely for how layers start."""
        given = {**self.layer.options, "output_size": self.layer.output_size, **options}
        kind = getattr(convbias, self.layer.kind)
        layer = kind(*self.layer.channels, self.layer.kernel_size, bias=self.tying, dtype=dtype, **given)
        with torch.no_grad():
            for parameter in layer._bias_parameters():
                parameter.normal_()
        return layer

    def torchs(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """torch.nn's layer with the same arguments and a tied bias; the activation is left out."""
        options = {k: v for k, v in self.layer.options.items() if k != "activation"}
        kind = getattr(nn, self.layer.kind)
        return kind(*self.layer.channels, self.layer.kernel_size, dtype=dtype, **options)

    def input(self, batch: int = BATCH, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(batch, self.layer.channels[0], *self.layer.size, dtype=dtype)

    def __str__(self) -> str:
        return self.name


def _case(tying_name: str, layer_name: str) -> Case | None:
    tying = tying_of(tying_name, LAYERS[layer_name])
    name = f"{tying_name or 'one number'}, {layer_name}"
    return None if tying is None else Case(name, LAYERS[layer_name], tying)


ALL = [case for layer in LAYERS for tying in TYINGS if (case := _case(tying, layer)) is not None]
SOME = [case for pair in WALK if (case := _case(*pair)) is not None]


def over(cases: list[Case]) -> pytest.MarkDecorator:
    """Run the test for each of ``cases``, given to it as ``case``."""
    return pytest.mark.parametrize("case", cases, ids=map(str, cases))


def plain(tying: str, **options: Any) -> Case:
    """A padded 3×3 with the bias ``tying``, for laws about the bias alone. ``options`` are the layer's."""
    layer = _layer("Conv2d", (2, 4), 3, (6, 6), padding=1, **options)
    found = tying_of(tying, layer)
    if found is None:
        raise ValueError(f"{layer} cannot have the tying {tying!r}")
    return Case(tying or "one number", layer, found)


def expected(layer: ConvNd, input: Tensor) -> Tensor:
    """What ``layer`` has to give, by the definition: tap by tap, the field added after the sum."""
    size, geometry = input.shape[-layer.dims :], layer.geometry()
    field = layer.bias_field(geometry.output_size(size), input_size=size) if layer._bias_names else None
    return reference.convolution(input, layer.weight, field, geometry, layer.groups, layer.activation or "")


def uneven(output: Tensor) -> Tensor:
    """A scalar function of ``output`` to which each entry contributes differently."""
    weights = torch.linspace(0.5, 1.5, output.numel()).to(output).reshape(output.shape)
    return (output * weights).sum()


def gradients(output: Tensor, layer: ConvNd, input: Tensor) -> list[Tensor]:
    """The gradients of an uneven function of ``output`` to the input and to every parameter."""
    return list(torch.autograd.grad(uneven(output), [input, *layer.parameters()]))


class Definition(nn.Module):
    """``layer`` by its definition: what its derivatives are compared with."""

    def __init__(self, layer: ConvNd) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: Tensor) -> Tensor:
        return expected(self.layer, input)


def as_function(layer: nn.Module) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """``f(input, *parameters)``, and the parameters, detached, to call it with."""
    names = [name for name, _ in layer.named_parameters()]

    def function(input: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (input,))

    return function, tuple(p.detach().clone() for p in layer.parameters())
