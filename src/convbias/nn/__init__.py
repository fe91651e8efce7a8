"""Layers with any bias, drop-in for torch.nn's, and the surgery that puts them into a network."""

from .bias import Bias, param_groups
from .biased import Biased, Resized
from .conv import Conv1d, Conv2d, Conv3d
from .convnd import ConvNd
from .decompose import Decomposition, decompose
from .lazy import (
    LazyConv1d,
    LazyConv2d,
    LazyConv3d,
    LazyConvTranspose1d,
    LazyConvTranspose2d,
    LazyConvTranspose3d,
)
from .surgery import Converted, Retied, retie, to_torch
from .transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

__all__ = [
    "Bias",
    "Biased",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvNd",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Converted",
    "Decomposition",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "Resized",
    "Retied",
    "decompose",
    "param_groups",
    "retie",
    "to_torch",
]
