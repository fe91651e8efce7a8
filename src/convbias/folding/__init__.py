"""Networks rewritten exactly: the laws of ``convbias.affine`` on graphs, where they pay."""

from .driver import LAWS
from .folding import Folded, fold
from .laws import Refused
from .report import Fold, Report

__all__ = ["LAWS", "Fold", "Folded", "Refused", "Report", "fold"]
