"""The convolution layers, drop-in for ``torch.nn.Conv1d`` to ``Conv3d``, with any bias."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import Parameter, init

from ..functional import call
from ..geometry import Geometry, Site, per_axis
from ..ops.activations import ACTIVATIONS, check_activation
from ..ops.call import BY_LABEL, Call, field_of, recorded
from ..ops.checks import check_tensor
from ..ops.choice import SMALL, chosen, winograd
from ..ops.convolve import HEAVY
from ..ops.few import Few, few_of
from ..ops.followers import follower
from ..ops.kept import Passing, Recent, forget
from ..ops.layout import layout_of
from ..ops.route import Stepwise, at_once, step_of, watched
from ..ops.settled import Settled
from ..ops.trained import Trained
from ..tying import NoBias, Tying
from .biased import Biased
from .checks import check, check_channels, check_residual

Ints = int | Sequence[int]


class ConvNd(Biased):
    """What convolutions and transposed ones share. Abstract."""

    dims: ClassVar[int]
    transposed: ClassVar[bool]
    weight: Parameter

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints,
        padding: str | Ints,
        dilation: Ints,
        output_padding: Ints,
        groups: int,
        bias: bool | str | Tying,
        padding_mode: str,
        device: Any,
        dtype: Any,
        output_size: Ints | None,
        activation: str | None,
    ) -> None:
        super().__init__()
        check_channels(in_channels, out_channels, groups)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = per_axis("kernel_size", kernel_size, self.dims)
        self.stride = per_axis("stride", stride, self.dims)
        self.dilation = per_axis("dilation", dilation, self.dims)
        self.padding = padding if isinstance(padding, str) else per_axis("padding", padding, self.dims)
        self.output_padding = per_axis("output_padding", output_padding, self.dims)
        self.groups = groups
        self.padding_mode = padding_mode
        self.activation = activation
        check_activation(activation)
        self._geometry_key: tuple[object, ...] = ()
        self._forget()
        self.geometry()
        # torch.nn reads a truth value: None, 0, 1 and numpy's bools are given too.
        self._set_tying(bool(bias) if bias in (None, 0, 1) else bias, output_size, self.dims)
        self._make_parameters(device, dtype)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """As torch.nn's; where ``bias`` is set to None, or to a tensor where it was None, the tying follows.

        Code that folds a normalisation into a convolution does that.
        """
        super().register_parameter(name, param)
        if name == "bias" and (param is None) != isinstance(self.tying, NoBias):
            for other in self._bias_names[1:]:
                delattr(self, other)
            self._set_tying(param is not None, None, self.dims)
            self._bias_names = tuple(self.tying.shapes(self._site()))

    def _make_parameters(self, device: Any, dtype: Any) -> None:
        shape = self._weight_shape()
        self.weight = Parameter(torch.empty(shape, device=device, dtype=dtype))
        self._register_bias(device, dtype)
        self.reset_parameters()

    @abstractmethod
    def _weight_shape(self) -> tuple[int, ...]:
        """The weight's shape, in torch.nn's order of axes."""

    def reset_parameters(self) -> None:
        """Draw weight and bias anew: torch.nn's numbers, from the same draws of the generator.

        A finer tying than tied starts as the tied bias that was drawn, a coarser one as its projection.
        """
        with torch.no_grad():
            drawn = torch.empty_like(self.weight, memory_format=torch.contiguous_format)
            init.kaiming_uniform_(drawn, a=math.sqrt(5))
            self.weight.copy_(drawn)
            if isinstance(self.tying, NoBias):
                return
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0
            tied = torch.empty(self.out_channels, device=self.weight.device, dtype=self.weight.dtype)
            self._start_from(init.uniform_(tied, -bound, bound))

    def geometry(self) -> Geometry:
        """Where the windows fall, from the attributes as they are now: users do change them."""
        key = (
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.output_padding,
            self.padding_mode,
        )
        if key != self._geometry_key:
            self._geometry = Geometry.of(
                self.dims,
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                padding_mode=self.padding_mode,
                transposed=self.transposed,
                output_padding=self.output_padding,
            )
            # Lists that change in place would stay what they are.
            self._geometry_key = tuple(list(given) if isinstance(given, list) else given for given in key)
        return self._geometry

    def _site(self) -> Site:
        return Site(self.out_channels, self.dims, self.geometry(), self.output_size)

    def _zeros(self, site: Site) -> Tensor:
        return self.weight.new_zeros(site.field_shape)

    def _run(self, input: Tensor, geometry: Geometry, residual: Tensor | None = None) -> Tensor:
        # Each tensor is read once: a parametrisation computes it anew each time.
        weight, bias = self._tensor("weight"), self._bias_arguments()
        plain = residual is None and not is_compiling() and type(input) is Tensor
        if plain and input.numel() < SMALL and at_once():
            few = self._few(input.shape, weight.shape, bias, geometry)
            if few is not None:
                return few(input, weight, bias)
        tensors = [input, weight, *bias]
        if residual is not None:
            check_residual(residual, input, self.out_channels, geometry)
            tensors.append(residual)
        if (residual is None or residual.dtype == input.dtype) and follower(tensors) is None:
            y = None
            if not recorded(tensors):
                y = self._without_gradient(input, weight, bias, geometry, residual)
            elif residual is None:
                y = self._with_gradient(input, weight, bias, geometry)
            if y is not None:
                return y
        call = (input, weight, bias, self._spelling, geometry, self.groups)
        if residual is None:
            return run(*call, self.activation or "", self.output_size)
        y = run(*call, "", self.output_size) + residual
        return ACTIVATIONS[self.activation](y) if self.activation else y

    def _few(
        self, input: torch.Size, weight: torch.Size, bias: Sequence[Tensor], geometry: Geometry
    ) -> Few | None:
        """What runs an input of such a size at once; None where it does not fit or something is kept."""
        # To write a field out takes longer than a small convolution; heavy weights are kept in another order.
        if self._computed or weight.numel() >= HEAVY:
            return None
        tying, field = self._spelling, bias[0].shape if bias and self._spelling != "tied" else None
        few = few_of(input, weight, field, geometry, tying, self.groups, self.activation or "")
        fits = few is not None and self.output_size in (None, few.output_size)
        return few if fits else None

    def _key(self, input: Tensor, geometry: Geometry) -> tuple[object, ...]:
        setting = (geometry, self.groups, self.activation, self.output_size, chosen(), winograd())
        return (layout_of(input), *setting)

    def _without_gradient(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Sequence[Tensor],
        geometry: Geometry,
        residual: Tensor | None,
    ) -> Tensor | None:
        """The output by what was kept from the last call, or None where nothing can be kept."""
        compute = partial(self.settle, input, weight, bias, geometry)
        settled = self._settled.get(compute, [weight, *bias], self._key(input, geometry))
        return None if settled is None else settled(input, residual)

    def settle(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Sequence[Tensor],
        geometry: Geometry,
        others: Sequence[Settled] = (),
    ) -> Settled:
        """The call, with what can be kept for the next one: the field written out, the weight packed."""
        self._check(input, weight, geometry)
        spelling = self._spelling
        if self._computed:
            site = Site.of(self.out_channels, geometry, input.shape[-self.dims :])
            bias, spelling = [field_of(bias, spelling, site)], "untied"
        call = Call(input, weight, bias, spelling, geometry, self.groups, self.activation or "")
        return Settled(call, others)

    def _with_gradient(
        self, input: Tensor, weight: Tensor, bias: Sequence[Tensor], geometry: Geometry
    ) -> Tensor | None:
        """The output by the step of the last call, if all lies as it did, or None where each is another."""
        if input.dim() != weight.dim() or watched():
            return None
        key = (self._key(input, geometry), *map(layout_of, (weight, *bias)))
        kept = self._trained.value
        if kept is None or kept[0] != key:
            kept = self._trained.value = (key, self._step(input, weight, bias, geometry))
        return kept[1](input, weight, bias)

    def _step(
        self, input: Tensor, weight: Tensor, bias: Sequence[Tensor], geometry: Geometry
    ) -> Trained | Stepwise:
        self._check(input, weight, geometry)
        return step_of(
            Call(input, weight, bias, self._spelling, geometry, self.groups, self.activation or "")
        )

    def _check(self, input: Tensor, weight: Tensor, geometry: Geometry) -> None:
        check(input.shape, weight.shape, geometry, self.groups, self.output_size)
        check_activation(self.activation)

    def repack(self) -> None:
        """Forget what was computed from the parameters.

        Where no gradient is recorded, the field of a tying such as tap is computed once, and again when a
        parameter changes; so is a weight's order of numbers that a kernel wants. Call this after a change
        that torch does not count: a write to ``.data``, or to what ``.numpy()`` gave. Of parameters that
        other processes share nothing is kept.
        """
        self._forget()
        # Compiled graphs and chained layers keep what they computed themselves.
        forget()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # What is kept holds on to the memory that parameters leave.
        self._forget()
        return super()._apply(fn, recurse)

    def _forget(self) -> None:
        self._settled, self._trained = Recent[Settled](), Passing[tuple[object, Trained | Stepwise]]()

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}"]
        parts += [f"kernel_size={self.kernel_size}, stride={self.stride}"]
        nothing = (0,) * self.dims
        if self.padding != nothing:
            parts.append(f"padding={self.padding}")
        if self.dilation != (1,) * self.dims:
            parts.append(f"dilation={self.dilation}")
        if self.output_padding != nothing:
            parts.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if repr(self.tying) != "tied":
            spelling = repr(repr(self.tying)) if self._spelling != BY_LABEL else repr(self.tying)
            parts.append("bias=False" if isinstance(self.tying, NoBias) else f"bias={spelling}")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        if self.output_size is not None:
            parts.append(f"output_size={self.output_size}")
        if self.activation is not None:
            parts.append(f"activation={self.activation}")
        return ", ".join(parts)


# The checks ask for the input's size, which a symbolic trace does not know: to torch.fx this is one step.
@torch.fx.wrap
def run(
    input: Tensor,
    weight: Tensor,
    bias: Sequence[Tensor],
    tying: str,
    geometry: Geometry,
    groups: int,
    activation: str,
    output_size: tuple[int, ...] | None,
) -> Tensor:
    """The op, for an input that has not been checked and a bias that is for ``output_size``, or for any."""
    check_tensor("input", input)
    check(input.shape, weight.shape, geometry, groups, output_size)
    return call(input, weight, bias, tying, geometry, groups, activation)
