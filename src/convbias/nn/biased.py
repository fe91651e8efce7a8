"""What every layer with a bias field has: its parameters, its field, resizing and loading."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.parameter import is_lazy

from ..errors import ShapeError
from ..geometry import Site, per_axis
from ..ops.call import BY_LABEL, as_arguments
from ..tying import NoBias, Regions, Tying, parse
from ..tying.axes import AxisSet
from ..tying.labels import Labelled
from .loading import adapt_bias


@dataclass(frozen=True)
class Resized:
    """What :meth:`Biased.resize_` changed: the output size, and the shape of each new parameter."""

    before: tuple[int, ...] | None
    after: tuple[int, ...] | None
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __str__(self) -> str:
        if not self.shapes:
            return "nothing to resize: no parameter depends on the output's size"
        rows = [f"{name} {old} -> {new}" for name, (old, new) in self.shapes.items()]
        return f"output size {self.before} -> {self.after}: {', '.join(rows)} (new parameters)"


class Biased(Module):
    """A layer whose bias has a tying. Abstract: :class:`Bias` and the convolutions are what to use."""

    _version = 1
    tying: Tying
    output_size: tuple[int, ...] | None

    def _set_tying(
        self, bias: bool | str | Tying, output_size: int | Sequence[int] | None, dims: int
    ) -> None:
        self.tying = parse(bias)
        if output_size is None and isinstance(self.tying, Regions):
            output_size = tuple(self.tying.labels.shape)
        self.output_size = None
        if output_size is not None:
            size = per_axis("output_size", output_size, dims)
            if min(size) < 1:
                raise ShapeError("output_size", size, "must be at least 1 on every axis")
            # A tying that follows the image has no size of its own to hold on to.
            self.output_size = size if self.tying.size_bound else None
        labelled = isinstance(self.tying, Labelled)
        self._spelling = BY_LABEL if labelled else repr(self.tying)
        # Fields that are no plain view of one parameter.
        self._computed = not isinstance(self.tying, (NoBias, AxisSet))
        self.register_buffer("bias_labels", None, persistent=False)

    def _register_bias(self, device: Any, dtype: Any) -> None:
        """Make the tying's parameters, uninitialised."""
        if self.tying.size_bound and self.output_size is None:
            raise ShapeError(
                "output_size",
                None,
                f"the tying {self.tying!r} has biases per output location; give output_size=, "
                "or use the Lazy layer, which sees it in its first input",
            )
        shapes = self.tying.shapes(self._site())
        if not shapes:
            self.register_parameter("bias", None)
        for name, shape in shapes.items():
            setattr(self, name, Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self._bias_names = tuple(shapes)
        self._place_labels()

    @abstractmethod
    def _site(self) -> Site:
        """Where this layer's bias lives, with the output's size where it has one."""

    def _bias_parameters(self) -> list[Tensor]:
        return [self._tensor(name) for name in self._bias_names]

    def _tensor(self, name: str) -> Tensor:
        """The attribute ``name``: a parameter, but where others compute it from their own."""
        found = self._parameters.get(name)  # to ask a module for an attribute takes its time
        return getattr(self, name) if found is None else found

    def _bias_arguments(self) -> list[Tensor]:
        """The op's ``bias``: the parameters, and the labels of a tying by label."""
        parameters = self._bias_parameters()
        # To ask a module for a buffer takes its time.
        if self._spelling != BY_LABEL or self.bias_labels is None:
            return parameters
        return [*parameters, self.bias_labels]

    @torch.no_grad()
    def _start_from(self, tied: Tensor) -> None:
        """Set the parameters so that the field is the tied bias ``tied``, or the nearest to it."""
        for parameter, value in zip(
            self._bias_parameters(), self.tying.lift(tied, self._site()), strict=True
        ):
            parameter.copy_(value)

    def _place_labels(self) -> None:
        if isinstance(self.tying, Labelled) and self._bias_names:
            arguments, _ = as_arguments(self.tying, self._bias_parameters(), self._site())
            self.bias_labels = arguments[-1]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        def apply(tensor: Tensor) -> Tensor:
            # To .to(memory_format=…) a field is one image: it then lies as the outputs do.
            field = not is_lazy(tensor) and tensor.dim() == 1 + self._site().dims
            return fn(tensor[None])[0] if field else fn(tensor)

        super()._apply(apply, recurse)
        # Labels are no state: to_empty() would leave them undefined, and no state dict restores them.
        if self.bias_labels is not None:
            self._place_labels()
        return self

    def bias_field(
        self, output_size: int | Sequence[int], *, input_size: int | Sequence[int] | None = None
    ) -> Tensor:
        """The bias field ``B``, shape ``(C_out, *out)``, at spatial size ``output_size``.

        ``input_size`` settles a tap's field where inputs of several sizes give that output.

        Raises ShapeError for a size that the layer cannot have, or that leaves a choice.
        """
        site = self._site()
        size = per_axis("output_size", output_size, site.dims)
        if self.output_size not in (None, size):
            raise ShapeError(
                "output_size",
                size,
                f"this layer's bias is for {self.output_size}; resize_({size}) interpolates it",
            )
        seen = None if input_size is None else per_axis("input_size", input_size, site.dims)
        if seen is not None and site.geometry is not None:
            geometry = site.geometry
            if geometry.transposed:
                geometry = geometry.with_output_size(seen, size)
            if geometry.output_size(seen) != size:
                raise ShapeError(
                    "input_size", seen, f"gives an output of {geometry.output_size(seen)}, not {size}"
                )
            site = replace(site, geometry=geometry)
        site = replace(site, output_size=size, input_size=seen)
        if not self._bias_names:
            return self._zeros(site)
        return self.tying.expand(self._bias_parameters(), site)

    def _zeros(self, site: Site) -> Tensor:
        return torch.zeros(site.field_shape)

    @torch.no_grad()
    def resize_(self, output_size: int | Sequence[int]) -> Resized:
        """Interpolate a position-dependent bias to another output size, corners aligned, in place.

        The parameters concerned are new objects: build the optimizer afterwards. Returns what changed;
        nothing does where the tying follows the image anyway.
        """
        site = self._site()
        size = per_axis("output_size", output_size, site.dims)
        if min(size) < 1:
            raise ShapeError("output_size", size, "must be at least 1 on every axis")
        if not self.tying.size_bound:
            return Resized(None, None, {})
        before, old = self.output_size, self._bias_parameters()
        new = self.tying.resize(old, site, size)
        changed: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for name, was, now in zip(self._bias_names, old, new, strict=True):
            if was.shape != now.shape:
                setattr(self, name, Parameter(now, requires_grad=was.requires_grad))
                changed[name] = (tuple(was.shape), tuple(now.shape))
            elif now is not was:
                was.copy_(now)
        self.output_size = size
        self._place_labels()
        return Resized(before, size, changed)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if metadata is not None:
            metadata["tying"] = repr(self.tying)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        version = local_metadata.get("version") or 1
        if version > self._version:
            error_msgs.append(
                f"version={version} of {prefix or 'this layer'}: saved by a newer convbias, which this one "
                f"(version {self._version}) cannot read; upgrade convbias"
            )
            return
        try:
            state_dict = adapt_bias(self, state_dict, prefix, local_metadata.get("tying"))
        except ValueError as error:
            error_msgs.append(f"{prefix}bias: {error}")
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        # A layer made on the meta device gets its parameters here; its labels are in no state dict.
        if self.bias_labels is not None:
            self._place_labels()
