"""A bias saved under one tying, loaded under another: exactly, or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import TyingError
from ..geometry import Site
from ..tying import Sum, Tap, Tying, convert, parse
from ..tying.tap import holds_tied

if TYPE_CHECKING:
    from .biased import Biased

_NAME = re.compile(r"bias(_\d+|_u|_v)?")


def adapt_bias(
    layer: Biased, state: dict[str, Tensor], prefix: str, saved_as: str | None
) -> dict[str, Tensor]:
    """``state`` with the bias under ``prefix`` in ``layer``'s tying.

    ``saved_as`` is the tying noted in the state dict; without it, ``(C,)`` is tied (as torch saves it), and a
    field with the output's axes is taken for what it shows.

    Raises TyingError where the layer's tying cannot hold the saved field exactly.
    """
    given = {
        key: value
        for key, value in state.items()
        if key.startswith(prefix) and _NAME.fullmatch(key[len(prefix) :])
    }
    unready = layer.tying.size_bound and layer.output_size is None
    if not given or not layer._bias_names or unready or saved_as == repr(layer.tying):
        return state
    named = {key[len(prefix) :]: value for key, value in given.items()}
    site = layer._site()
    source = _source(named, layer.tying, site, saved_as)
    if source is None:
        return state
    converted = _convert(named, source, layer.tying, site)
    rest = {key: value for key, value in state.items() if key not in given}
    names = layer.tying.shapes(site)
    return rest | {prefix + name: value for name, value in zip(names, converted, strict=True)}


def _source(named: Mapping[str, Tensor], target: Tying, site: Site, saved_as: str | None) -> Tying | None:
    """The tying that the saved tensors have, or None to load them as they are."""
    if saved_as is not None:
        return None if saved_as.startswith("Regions") else parse(saved_as)
    shapes = {name: tuple(value.shape) for name, value in named.items()}
    if shapes == target.shapes(site) or set(shapes) != {"bias"}:
        return None
    shape = shapes["bias"]
    if len(shape) == 1:
        return parse("tied") if shape == (site.channels,) else None
    kernel = None if site.geometry is None else site.geometry.kernel_size
    if len(shape) == 1 + site.dims and shape[0] in (1, site.channels) and shape[1:] != kernel:
        return parse("untied")
    return None


def _convert(named: Mapping[str, Tensor], source: Tying, target: Tying, site: Site) -> list[Tensor]:
    parameters = [named[name] for name in sorted(named, key=_order)]
    if repr(source) == "tied" and isinstance(target, Tap):
        # The one finer tying that may be unable to hold a tied bias, depending on the kernel alone.
        if site.geometry is None or not holds_tied(site.geometry):
            raise TyingError("tap", "tied", "no tap bias is constant at this geometry; load into 'c + tap'")
        return target.lift(parameters[0], site)
    if site.output_size is None:
        site = _somewhere(parameters, source, site)
    if source == parse("untied"):
        parameters = [parameters[0].expand(site.field_shape)]
    converted, residual = convert(parameters, source, target, site)
    largest = float(source.expand(parameters, site).abs().max())
    if residual > 8 * torch.finfo(parameters[0].dtype).eps * largest:
        raise TyingError(
            repr(target),
            repr(source),
            f"the saved {source!r} bias is not a {target!r} one (largest difference {residual:.3g}); "
            "make the layer with the saved tying and project it by convbias.retie",
        )
    return converted


def _order(name: str) -> tuple[int, str]:
    suffix = name.removeprefix("bias").removeprefix("_")
    return (int(suffix), "") if suffix.isdigit() else (0, suffix)


def _somewhere(parameters: list[Tensor], source: Tying, site: Site) -> Site:
    """A size at which to compare two fields, for a layer without one of its own."""
    terms = source.terms if isinstance(source, Sum) else (source,)
    covers = site.geometry is not None and site.geometry.covers
    if any(isinstance(term, Tap) for term in terms) and not covers:
        raise TyingError(repr(source), "tap", "a tap bias bends at the border; give the layer a tap tying")
    if not source.size_bound:
        return replace(site, output_size=(4,) * site.dims)
    places = [p.shape[-site.dims :] for p in parameters if p.dim() > site.dims]
    return replace(site, output_size=tuple(max(sizes) for sizes in zip(*places, strict=True)))
