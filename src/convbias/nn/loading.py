"""A bias saved under one tying, loaded under another: exactly, or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ..errors import ShapeError, TyingError
from ..geometry import Site
from ..tying import Labelled, Sum, Tap, Tying, convert, parse
from ..tying.base import over_places
from ..tying.tap import holds_tied

if TYPE_CHECKING:
    from .biased import Biased

TIED = parse("tied")
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
    usable = all(isinstance(value, Tensor) and not is_lazy(value) for value in given.values())
    if not given or not usable or not layer._bias_names or saved_as == repr(layer.tying):
        return state
    own = layer._bias_parameters()[0].dtype
    named = {
        key[len(prefix) :]: value if value.is_floating_point() or value.is_complex() else value.to(own)
        for key, value in given.items()
    }
    if layer.tying.size_bound and layer.output_size is None:
        if {name: value.dim() for name, value in named.items()} == {"bias": 1}:
            raise ShapeError(
                "output_size",
                None,
                f"a tied bias becomes a {layer.tying!r} one where the output's size is known; "
                "give output_size=, or run the lazy layer once before loading",
            )
        return state
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
        if saved_as.startswith("Regions"):
            raise TyingError(saved_as, saved_as, "a state dict holds no labels; give the layer these Regions")
        return parse(saved_as)
    shapes = {name: tuple(value.shape) for name, value in named.items()}
    if shapes == target.shapes(site) or set(shapes) != {"bias"}:
        return None
    shape = shapes["bias"]
    if len(shape) == 1:
        return TIED if shape == (site.channels,) else None
    kernel = None if site.geometry is None else site.geometry.kernel_size
    if len(shape) == 1 + site.dims and shape[0] in (1, site.channels) and shape[1:] != kernel:
        return parse("untied")
    return None


def _convert(named: Mapping[str, Tensor], source: Tying, target: Tying, site: Site) -> list[Tensor]:
    parameters = [named[name] for name in sorted(named, key=_order)]
    layer_size = site.output_size
    if source == TIED and isinstance(target, Tap):
        # The one finer tying that may be unable to hold a tied bias, depending on the kernel alone.
        if site.geometry is None or not holds_tied(site.geometry):
            raise TyingError("tap", "tied", "no tap bias is constant at this geometry; load into 'c + tap'")
        return target.lift(parameters[0], site)
    if isinstance(target, Sum) and source in target.terms:
        (own,) = parameters
        zeros = [own.new_zeros(shape) for shape in target.shapes(site).values()]
        return [own if term == source else zero for term, zero in zip(target.terms, zeros, strict=True)]
    if site.output_size is None:
        site = _somewhere(parameters, source, site)
    if source == parse("untied"):
        parameters = [parameters[0].expand(site.field_shape)]
    field = source.expand(parameters, site)
    level = field.flatten(1)[:, 0]
    if source != TIED and torch.equal(field, over_places(level, site).expand_as(field)):
        return _convert({"bias": level}, TIED, target, replace(site, output_size=layer_size))
    if not source.size_bound and _has_tap(target):
        rule = "the two follow the image in different ways; give the layer the saved tying"
        raise TyingError(repr(target), repr(source), rule)
    converted, residual = convert(parameters, source, target, site)
    if residual > 64 * torch.finfo(field.dtype).eps * float(field.abs().max()):
        raise TyingError(
            repr(target),
            repr(source),
            f"the saved {source!r} bias is not a {target!r} one (largest difference {residual:.3g}); "
            "make the layer with the saved tying and project it by convbias.retie",
        )
    return converted


def _has_tap(tying: Tying) -> bool:
    return any(isinstance(term, Tap) for term in (tying.terms if isinstance(tying, Sum) else (tying,)))


def _order(name: str) -> tuple[int, str]:
    suffix = name.removeprefix("bias").removeprefix("_")
    return (int(suffix), "") if suffix.isdigit() else (0, suffix)


def _somewhere(parameters: list[Tensor], source: Tying, site: Site) -> Site:
    """A size at which to compare two fields, for a layer without one of its own."""
    covers = site.geometry is not None and site.geometry.covers
    if _has_tap(source) and not covers:
        rule = f"a tap bias bends at the border; give the layer the tying {source!r}"
        raise TyingError(repr(source), "tap", rule)
    if not source.size_bound:
        return replace(site, output_size=(4,) * site.dims)
    if isinstance(source, Labelled):
        rule = "its parameters do not show the output's size; give the layer this tying"
        raise TyingError(repr(source), repr(source), rule)
    places = [p.shape[-site.dims :] for p in parameters if p.dim() > site.dims]
    # An axis of length 1 is shared, and what is shared has to be so at more places than one.
    return replace(site, output_size=tuple(n if n > 1 else 4 for n in map(max, zip(*places, strict=True))))
