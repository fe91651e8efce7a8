"""The nonlinearities that may follow the bias."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
    "silu": F.silu,
    "leaky_relu": F.leaky_relu,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}

# The same onto the input's own memory.
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "relu6": lambda y: F.relu6(y, inplace=True),
    "gelu": torch.ops.aten.gelu_,
    "gelu_tanh": lambda y: torch.ops.aten.gelu_(y, approximate="tanh"),
    "silu": lambda y: F.silu(y, inplace=True),
    "leaky_relu": lambda y: F.leaky_relu(y, inplace=True),
    "hardswish": lambda y: F.hardswish(y, inplace=True),
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
}

# Those by which torch goes as fast as by an addition, and of whose gradient its output is all that is needed.
CHEAP = ("relu", "relu6")


def check_activation(activation: str | None) -> str:
    """The name of the activation, "" for none; raises ValueError for an unknown one."""
    # Not in a dict: what is no string may have no hash.
    if activation is not None and activation not in tuple(ACTIVATIONS):
        raise ValueError(
            f"activation={activation!r}: must be None or one of {', '.join(ACTIVATIONS)}; "
            "for another, leave it None and apply your own after the layer"
        )
    return activation or ""
