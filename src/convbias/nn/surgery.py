"""Surgery on whole networks: another tying for chosen convolutions, and the way back to torch.nn."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.modules.lazy import LazyModuleMixin

from ..errors import SurgeryError
from ..geometry import Site
from ..ops.layout import field_as, form_of
from ..tying import Axes, NoBias, Tying, convert, parse
from .bias import Bias
from .conv import Conv1d, Conv2d, Conv3d
from .convnd import ConvNd
from .probe import Calls, probe
from .transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

OURS: dict[type[Module], type[ConvNd]] = {
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
    nn.ConvTranspose1d: ConvTranspose1d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.ConvTranspose3d: ConvTranspose3d,
}
TORCHS = {ours: theirs for theirs, ours in OURS.items()}
TIED = Axes(("c",))

ACTIVATION_MODULES: dict[str, Callable[[], Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}

Where = str | Callable[[str, Module], bool] | None


@dataclass(frozen=True)
class Converted:
    """What happened to one convolution. ``reason`` says why it was left alone, or is None.

    ``residual`` is the largest difference between the old bias field and the new one, 0 where exact.
    """

    name: str
    before: str
    after: str
    parameters_before: int
    parameters_after: int
    residual: float
    reason: str | None = None

    def __str__(self) -> str:
        if self.reason is not None:
            return f"{self.name or '(model)'}: left {self.before}: {self.reason}"
        change = f"{self.parameters_before} -> {self.parameters_after} parameters"
        exact = "exact" if self.residual == 0 else f"residual {self.residual:.3g}"
        return f"{self.name or '(model)'}: {self.before} -> {self.after}, {change}, {exact}"


@dataclass(frozen=True)
class Retied:
    """A network with another tying, and a row for each convolution that was chosen."""

    model: Module
    report: tuple[Converted, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.report))


def retie(model: Module, tying: bool | str | Tying, example_inputs: object, where: Where = None) -> Retied:
    """A copy of ``model`` whose chosen convolutions have the bias ``tying``.

    A finer tying is the same function, exactly; a coarser one is the projection, its residual reported.
    ``where`` chooses layers by a regular expression that matches their whole name, or by a function of
    name and layer; None takes all. ``example_inputs`` (a tensor, a sequence of arguments, or a mapping)
    shows the sizes. Subclasses, parametrised and hooked convolutions, and those whose tensors are used
    elsewhere, are left alone, with the reason in the report.

    Raises TyingError for a spelling that cannot be read, SurgeryError where no layer could be converted.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3))
    >>> print(retie(net, "untied", torch.zeros(1, 1, 8, 8)))
    0: tied -> untied, 4 -> 256 parameters, exact
    2: tied -> untied, 2 -> 72 parameters, exact
    """
    target = parse(tying)
    copied = copy.deepcopy(model)
    chosen = _chosen(copied, where)
    calls = probe(copied, list(chosen), example_inputs)
    report: list[Converted] = []
    for name, layer in chosen.items():
        new, row = _retied(name, layer, target, calls[name], copied)
        copied = copied if new is None else _replace(copied, layer, new)
        report.append(row)
    if all(row.reason is not None for row in report):
        raise SurgeryError(report[0].name, f"no layer could be converted: {report[0].reason}")
    return Retied(copied, tuple(report))


def to_torch(model: Module, example_inputs: object = None) -> Module:
    """A copy of ``model`` with torch.nn's layers in place of convbias's, the same function.

    Tied and none become ``nn.Conv*``; others ``nn.Sequential(nn.Conv*, Bias)``, a tap bias as its field at
    the size of ``example_inputs``; an activation follows as a module.

    Raises SurgeryError for a tap bias without example inputs, or one called at several sizes.

    >>> to_torch(Conv2d(1, 2, 3, bias="c h", output_size=(6, 6), activation="relu"))
    Sequential(
      (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), bias=False)
      (1): Bias(2, bias=c h, output_size=(6, 6))
      (2): ReLU()
    )
    """
    copied = copy.deepcopy(model)
    ours = {name: m for name, m in copied.named_modules() if type(m) in TORCHS}
    calls = {} if example_inputs is None else probe(copied, list(ours), example_inputs)
    for name, layer in ours.items():
        copied = _replace(copied, layer, _as_torch(name, layer, calls.get(name)))
    return copied


def _chosen(model: Module, where: Where) -> dict[str, Module]:
    kinds = (*OURS, *TORCHS)
    found = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}
    if not found:
        raise SurgeryError("", "the model has no convolution layer, of torch.nn's or convbias's, to retie")
    if where is None:
        chosen = found
    elif callable(where):
        chosen = {name: m for name, m in found.items() if where(name, m)}
    else:
        try:
            pattern = re.compile(where)
        except re.error as error:
            raise SurgeryError(where, f"where is no regular expression: {error}") from error
        chosen = {name: m for name, m in found.items() if pattern.fullmatch(name)}
    if not chosen:
        raise SurgeryError(
            str(where or ""), f"chooses none of the model's convolutions, which are {list(found)}"
        )
    return chosen


def _reason_to_leave(model: Module, layer: Module, target: Tying, calls: Calls) -> str | None:
    if nn.utils.parametrize.is_parametrized(layer):
        return "it is parametrised; remove the parametrisation first"
    if isinstance(layer, LazyModuleMixin):
        return "it is lazy; run the model once first"
    if type(layer) not in OURS and type(layer) not in TORCHS:
        return f"{type(layer).__name__} is a subclass, whose forward may differ"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has forward hooks, which would be lost"
    if not calls.sizes:
        return "the example inputs never call it"
    if calls.used_outside:
        return "its tensors are used outside of it"
    biases = {id(p) for p in _biases(layer)}
    others = (m for m in model.modules() if m is not layer)
    if any(id(p) in biases for m in others for p in m.parameters(recurse=False)):
        return "another layer shares its bias"
    if target.size_bound and len({out for _, out in calls.sizes}) > 1:
        outputs = sorted(out for _, out in calls.sizes)
        return f"it is called at several output sizes, {outputs}; take tap, grid or tied"
    return None


def _tying_of(layer: Module) -> Tying:
    if isinstance(layer, ConvNd):
        return layer.tying
    return NoBias() if layer.bias is None else TIED


def _biases(layer: Module) -> list[nn.Parameter]:
    """The layer's own bias parameters, in the order of its tying."""
    own = layer.named_parameters(recurse=False)
    return [p for name, p in own if name != "weight" and not isinstance(p, nn.UninitializedParameter)]


def _count(layer: Module) -> int:
    return sum(p.numel() for p in _biases(layer))


def _retied(
    name: str, layer: Any, target: Tying, calls: Calls, model: Module
) -> tuple[ConvNd | None, Converted]:
    """``layer`` with the bias ``target`` and what changed; None and the reason where it is left alone."""
    before, count = repr(_tying_of(layer)), _count(layer)
    reason = _reason_to_leave(model, layer, target, calls)
    if reason is None:
        try:
            new, residual = _converted(layer, target, calls)
            return new, Converted(name, before, repr(target), count, _count(new), residual)
        except ValueError as error:
            reason = str(error)
    return None, Converted(name, before, before, count, count, 0.0, reason)


def _converted(layer: Any, target: Tying, calls: Calls) -> tuple[ConvNd, float]:
    """``layer`` with the bias ``target``, at the first of the sizes seen, and the field's error."""
    source, (input_size, output_size) = _tying_of(layer), min(calls.sizes)
    new = _like(layer, OURS.get(type(layer), type(layer)), target, output_size)
    geometry = new.geometry()
    if geometry.transposed:
        geometry = geometry.with_output_size(input_size, output_size)
    site = Site.of(layer.out_channels, geometry, input_size)
    old, trainable = _biases(layer), layer.weight.requires_grad
    if isinstance(source, NoBias):
        source, old = TIED, [layer.weight.detach().new_zeros(layer.out_channels)]
    else:
        trainable = old[0].requires_grad
    with torch.no_grad():
        values, residual = convert(old, source, target, site)
    for key, value in zip(new._bias_names, values, strict=True):
        setattr(new, key, nn.Parameter(_as_outputs(value, layer.weight), requires_grad=trainable))
    new._place_labels()
    return new, residual


def _as_outputs(value: Tensor, weight: Tensor) -> Tensor:
    """A field as the outputs of a convolution by ``weight`` lie: it is added much faster."""
    field = value.dim() == weight.dim() - 1
    return field_as(form_of(weight, weight), value) if field else value


def _like(layer: Any, kind: Any, bias: Any, output_size: tuple[int, ...] | None = None) -> Any:
    """A layer of class ``kind`` with ``layer``'s arguments, its very weight, and an unset bias."""
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"]
    arguments = {name: getattr(layer, name) for name in names}
    arguments |= {"padding_mode": layer.padding_mode, "dtype": layer.weight.dtype, "bias": bias}
    if layer.transposed:
        arguments["output_padding"] = layer.output_padding
    if issubclass(kind, ConvNd):
        arguments |= {"output_size": output_size, "activation": getattr(layer, "activation", None)}
    # On the meta device nothing is drawn, so torch's generator stays where it was.
    new = kind(**arguments, device="meta")
    new.weight = layer.weight
    return new.train(layer.training)


def _as_torch(name: str, layer: Any, calls: Calls | None) -> Module:
    tied = repr(layer.tying) == "tied"
    conv = _like(layer, TORCHS[type(layer)], tied)
    if tied:
        conv.bias = layer.bias
    parts: list[Module] = [conv]
    if layer._bias_names and not tied:
        parts.append(_bias_alone(name, layer, calls))
    if layer.activation is not None:
        parts.append(ACTIVATION_MODULES[layer.activation]())
    return conv if len(parts) == 1 else nn.Sequential(*parts).train(layer.training)


def _bias_alone(name: str, layer: ConvNd, calls: Calls | None) -> Bias:
    size = layer.output_size or (1,) * layer.dims
    if "tap" not in repr(layer.tying).split():
        alone = Bias(layer.out_channels, size, layer.tying, "meta", layer.weight.dtype)
        for key, value in zip(layer._bias_names, layer._bias_parameters(), strict=True):
            setattr(alone, key, value)
        alone._place_labels()
        return alone
    if calls is None or len(calls.sizes) != 1:
        seen = "no sizes" if calls is None else f"{len(calls.sizes)} sizes"
        raise SurgeryError(
            name, f"a tap bias outside of its layer needs one size, and {seen} are known; give example_inputs"
        )
    ((input_size, output_size),) = calls.sizes
    alone = Bias(layer.out_channels, output_size, "untied", "meta", layer.weight.dtype)
    field = layer.bias_field(output_size, input_size=input_size).detach().clone()
    alone.bias = nn.Parameter(field, requires_grad=layer.weight.requires_grad)
    return alone


def _replace(model: Module, old: Module, new: Module) -> Module:
    """``model`` with ``new`` wherever ``old`` stood, so that shared layers stay shared."""
    if model is old:
        return new
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                setattr(parent, name, new)
    return model
