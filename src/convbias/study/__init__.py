"""Which tying suits my network and my data: trained under each, compared with error bars."""

from .bench import Bench
from .comparison import compare
from .costs import Cost
from .data import Data
from .factories import load_model
from .jobs import Trial
from .recipe import Recipe
from .results import Row, Study
from .runs import Run
from .sources import load
from .statistics import Estimate, Interval
from .tasks import Classification, Regression, Segmentation, Task

__all__ = [
    "Bench",
    "Classification",
    "Cost",
    "Data",
    "Estimate",
    "Interval",
    "Recipe",
    "Regression",
    "Row",
    "Run",
    "Segmentation",
    "Study",
    "Task",
    "Trial",
    "compare",
    "load",
    "load_model",
]
