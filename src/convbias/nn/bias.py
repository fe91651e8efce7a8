"""The additive layer alone, and the parameter groups that keep biases from decaying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import ShapeError
from ..geometry import Site
from ..ops.call import field_of
from ..tying import Tying
from .biased import Biased


class Bias(Biased):
    """Adds a bias field: ``y[n, c, o] = x[n, c, o] + B[c, o]``, with any tying but tap. Starts at zero.

    Input ``(N, channels, *output_size)`` or without N; ``tied`` and ``grid`` biases take other sizes too.

    Raises ShapeError for sizes that do not fit, TyingError for a tying that cannot be read or had.

    >>> go_head = Bias(1, (19, 19), bias="sym:d4")  # a Go board: 55 kinds of points
    >>> tuple(go_head.bias.shape)
    (1, 55)
    """

    def __init__(
        self,
        channels: int,
        output_size: Sequence[int],
        bias: str | bool | Tying = "untied",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.dims = len(tuple(output_size))
        if self.dims not in (1, 2, 3):
            raise ShapeError("output_size", tuple(output_size), "needs one to three axes")
        self._set_tying(bias, output_size, self.dims)
        self._register_bias(device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the field to zero."""
        for parameter in self._bias_parameters()[:1]:
            self._start_from(parameter.new_zeros(self.channels))

    def forward(self, input: Tensor) -> Tensor:
        size = tuple(input.shape[-self.dims :])
        if input.dim() not in (self.dims + 1, self.dims + 2) or self.output_size not in (None, size):
            wanted = (self.channels, *(self.output_size or ("*",) * self.dims))
            raise ShapeError(
                "input", list(input.shape), f"must be {wanted}, with or without a batch axis before it"
            )
        if input.shape[-self.dims - 1] != self.channels:
            raise ShapeError("input", list(input.shape), f"needs {self.channels} channels")
        if not self._bias_names:
            return input
        site = Site(self.channels, self.dims, output_size=size)
        field = field_of(self._bias_arguments(), self._spelling, site)
        return input + field.to(input.dtype)

    def _site(self) -> Site:
        return Site(self.channels, self.dims, output_size=self.output_size)

    def extra_repr(self) -> str:
        size = f", output_size={self.output_size}" if self.output_size else ""
        return f"{self.channels}, bias={self.tying!r}{size}"


def param_groups(model: Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer that decay everything but biases, whatever their rank.

    A bias is a parameter named so: ``bias`` of any layer, and ``bias_1``, ``bias_u``, … of convbias's.

    >>> from torch import nn
    >>> [len(group["params"]) for group in param_groups(nn.Linear(2, 3), 0.01)]
    [1, 1]
    """
    seen: dict[torch.nn.Parameter, bool] = {}
    for module in model.modules():
        own = set(module._bias_names) if isinstance(module, Biased) else {"bias"}
        for name, parameter in module.named_parameters(recurse=False):
            seen[parameter] = seen.get(parameter, False) or name in own
        for name, parametrized in getattr(module, "parametrizations", {}).items():
            seen.update((parameter, True) for parameter in parametrized.parameters() if name in own)
    decayed = [parameter for parameter, is_bias in seen.items() if not is_bias]
    biases = [parameter for parameter, is_bias in seen.items() if is_bias]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
