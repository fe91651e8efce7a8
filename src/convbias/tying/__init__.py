"""Tyings: which outputs share a bias. Parse ⇄ repr, parameter shapes, expand, project, refine.

Each family has a room: ``axes`` (none, tied, axis sets, untied, sums), ``tap``, ``lowrank``, ``grid`` and
``labels`` (regions and symmetries); ``base`` says what every tying can do, ``spelling`` reads strings.
"""

from .axes import Axes, NoBias, Sum, Untied
from .base import Tying, convert, refines
from .grid import Grid
from .labels import Labelled, Regions, Symmetric
from .lowrank import Rank
from .spelling import parse
from .tap import Tap

__all__ = [
    "Axes",
    "Grid",
    "Labelled",
    "NoBias",
    "Rank",
    "Regions",
    "Sum",
    "Symmetric",
    "Tap",
    "Tying",
    "Untied",
    "convert",
    "parse",
    "refines",
]
