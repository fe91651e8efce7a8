"""Figures: bias fields as maps, which outputs share a bias, and what a study found.

Each function gives a matplotlib Figure, which a notebook shows and ``save`` writes as PNG or SVG.
"""

from .fields import Coordinates, bias_fields, model_fields, part_maps
from .files import save
from .sharing import sharing
from .studies import decomposition, differences, learning_curves

__all__ = [
    "Coordinates",
    "bias_fields",
    "decomposition",
    "differences",
    "learning_curves",
    "model_fields",
    "part_maps",
    "save",
    "sharing",
]
