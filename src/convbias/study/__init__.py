"""Which tying suits my network and my data: trained under each, compared with error bars."""

from .comparison import Row, Study, compare
from .data import Data
from .factories import load_model
from .files import digits, load_field, load_images
from .recipe import Recipe
from .runs import Run, Trial
from .statistics import Estimate
from .tasks import Classification, Regression, Task

__all__ = [
    "Classification",
    "Data",
    "Estimate",
    "Recipe",
    "Regression",
    "Row",
    "Run",
    "Study",
    "Task",
    "Trial",
    "compare",
    "digits",
    "load_field",
    "load_images",
    "load_model",
]
