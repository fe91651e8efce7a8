"""The algebra: a convolution with its bias field as a value, and what may be folded into it, exactly."""

from .compose import compose
from .conv import AffineConv, average_pool, identity, tied
from .field import Field
from .laws import (
    absorbed_by_linear,
    after,
    before,
    constant_channels,
    constant_padding,
    relu_floor,
    through_max_pool,
)
from .parallel import cropping, parallel

__all__ = [
    "AffineConv",
    "Field",
    "absorbed_by_linear",
    "after",
    "average_pool",
    "before",
    "compose",
    "constant_channels",
    "constant_padding",
    "cropping",
    "identity",
    "parallel",
    "relu_floor",
    "through_max_pool",
    "tied",
]
