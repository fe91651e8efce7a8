"""Figures: bias fields as maps, and what a study found."""

from .fields import Coordinates, bias_fields
from .files import save
from .studies import decomposition, differences, learning_curves

__all__ = ["Coordinates", "bias_fields", "decomposition", "differences", "learning_curves", "save"]
