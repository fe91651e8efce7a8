"""What a convolution's output is made of: the data, the padding, and the bias's two parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import ShapeError
from ..geometry import Geometry, Site
from ..tying import Tap
from ..tying.base import over_places, per_axis_product
from .convnd import ConvNd
from .probe import call_with
from .surgery import OURS

PARTS: Final = ("data", "padding", "tied", "position")


@final
@dataclass(frozen=True, eq=False)
class Decomposition:
    """The pre-activation ``total`` ``(N, C, *out)`` of one layer, as ``data + padding + tied + position``.

    ``tied`` ``(C, 1, …)`` is the field's mean over places, ``position`` ``(C, *out)`` the field without it;
    ``padding`` ``(C, *out)`` is what the entries missing outside the image would have added on average;
    ``data`` ``(N, C, *out)`` is the rest.
    """

    total: Tensor
    data: Tensor
    padding: Tensor
    tied: Tensor
    position: Tensor

    @property
    def shares(self) -> Mapping[str, float]:
        """How much of the total's variation over space each part is: ``cov(part, total)/var(total)``.

        Sums over the images and filters; they add up to 1. A part that works against the others has a
        negative share. All are 0 where the total does not vary.
        """
        places = tuple(range(2 - self.total.dim(), 0))

        def centred(part: Tensor) -> Tensor:
            return part.double() - part.double().mean(places, keepdim=True)

        varying = centred(self.total)
        whole = float((varying * varying).sum())
        return {
            part: float((centred(getattr(self, part)) * varying).sum()) / whole if whole else 0.0
            for part in PARTS
        }

    def __str__(self) -> str:
        return ", ".join(f"{part} {share:.1%}" for part, share in self.shares.items())


def decompose(model: Module, x: object) -> dict[str, Decomposition]:
    """What the output of each convolution of ``model`` is made of, exactly, before any activation.

        total = data + padding + tied + position

    With μ the means of the layer's input channels over batch and space, ``padding`` is
    ``−Σ W[c, i, t] μ_i`` over the taps outside the image: what zero padding takes away there. ``x`` is an
    input of the model, a sequence of arguments, or a mapping; the model runs in eval mode, and its layers
    (torch.nn's and convbias's, ``""`` where the model is one itself) are called as it calls them, the last
    time where several.

    Raises ShapeError for a model without a convolution that runs, and for one that is called with what it
    does not take; ValueError for values that are not finite, for shares of those say nothing.

    >>> layer, x = torch.nn.Conv2d(3, 8, 3, padding=1), torch.randn(4, 3, 16, 16)
    >>> parts = decompose(layer, x)[""]
    >>> whole = parts.data + parts.padding + parts.tied + parts.position
    >>> torch.allclose(whole, layer(x), atol=1e-6)
    True
    >>> round(sum(parts.shares.values()), 6)
    1.0
    """
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, (ConvNd, *OURS))}
    found: dict[str, Decomposition] = {}

    def about_to_run(layer: Any, arguments: tuple[Any, ...]) -> None:
        _check(names[layer], layer, arguments[0])

    def seen(layer: Any, arguments: tuple[Any, ...], output: Tensor) -> None:
        found[names[layer]] = _of_layer(layer, arguments[0], tuple(output.shape[-layer.weight.dim() + 2 :]))

    hooks = [layer.register_forward_hook(seen) for layer in names]
    hooks += [layer.register_forward_pre_hook(about_to_run) for layer in names]
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            call_with(model, x)
    finally:
        for hook in hooks:
            hook.remove()
        for module, was in training.items():
            module.training = was
    if not found:
        raise ShapeError("model", type(model).__name__, "runs no convolution; give one that has some")
    return found


def _check(name: str, layer: Any, x: Tensor) -> None:
    """Raise ValueError for an input that cannot be taken apart, before torch says it in its own way."""
    dims = layer.weight.dim() - 2
    name, shape = f"layer {name!r}, input" if name else "input", tuple(x.shape)
    if x.dim() not in (dims + 1, dims + 2) or shape[-dims - 1] != layer.in_channels:
        raise ShapeError(name, shape, f"must be (N, {layer.in_channels}, *space), or without N")
    if not x.numel():
        raise ShapeError(name, shape, "is empty and has no mean; give one image at least")
    if not (x.is_floating_point() or x.is_complex()):
        raise ShapeError(name, x.dtype, "must be floating-point numbers; x.float() makes them so")
    if not x.isfinite().all():
        at = tuple((~x.isfinite()).nonzero()[0].tolist())
        raise ValueError(
            f"{name}={x[at]:g}, at {at}: must be finite, for all shares depend on it; fill it first"
        )


def _of_layer(layer: Any, x: Tensor, output_size: tuple[int, ...]) -> Decomposition:
    dims = layer.weight.dim() - 2
    images = x if x.dim() == dims + 2 else x[None]
    size = tuple(images.shape[2:])
    geometry = _geometry(layer, size, output_size)
    linear = geometry.convolve(images, layer.weight, None, layer.groups)
    site = Site.of(linear.shape[1], geometry, size)
    if isinstance(layer, ConvNd):
        field = layer.bias_field(output_size, input_size=size)
    elif layer.bias is None:
        field = linear.new_zeros(site.field_shape)
    else:
        field = over_places(layer.bias, site).expand(site.field_shape)
    padding = _padding(layer, images.transpose(0, 1).flatten(1).mean(1), site)
    tied = field.flatten(1).mean(1).reshape(-1, *(1,) * dims)
    return Decomposition(linear + field, linear - padding, padding, tied, field - tied)


def _geometry(layer: Any, input_size: tuple[int, ...], output_size: tuple[int, ...]) -> Geometry:
    """Where the layer's windows fell in a call with these sizes."""
    if isinstance(layer, ConvNd):
        geometry = layer.geometry()
    else:
        names = ("kernel_size", "stride", "padding", "dilation")
        geometry = Geometry.of(
            len(layer.kernel_size),
            *(getattr(layer, name) for name in names),
            padding_mode=layer.padding_mode,
            transposed=layer.transposed,
            output_padding=layer.output_padding,
        )
    return geometry.with_output_size(input_size, output_size) if geometry.transposed else geometry


def _padding(layer: Any, mean: Tensor, site: Site) -> Tensor:
    """``−Σ W[c, i, t] μ_i`` over the taps outside the image: those valid there less all that reach there."""
    geometry, groups = site.geometry, layer.groups
    assert geometry is not None  # noqa: S101
    weight = layer.weight.unflatten(0, (groups, -1))
    per_group = mean.reshape(groups, -1)
    equation = "gio...,gi->go..." if geometry.transposed else "goi...,gi->go..."
    taps = torch.einsum(equation, weight, per_group).flatten(0, 1)
    return Tap().expand([taps], site) - per_axis_product(taps, _reaching(geometry, site.sized()))


def _reaching(geometry: Geometry, output_size: tuple[int, ...]) -> list[Tensor]:
    """Per axis ``(out, k)``: which taps an output would read if the image went on for ever."""
    masks: list[Tensor] = []
    for axis, n in enumerate(output_size):
        place = torch.arange(n)[:, None] + geometry.pads[axis][0]
        tap = torch.arange(geometry.kernel_size[axis]) * geometry.dilation[axis]
        phase = geometry.stride[axis] if geometry.transposed else 1
        masks.append((place - tap) % phase == 0)
    return masks
