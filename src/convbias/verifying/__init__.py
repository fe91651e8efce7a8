"""Whether two networks are the same function: borders included, whatever made them."""

from .check import verify
from .inputs import randomised
from .verdict import Case, Verdict

__all__ = ["Case", "Verdict", "randomised", "verify"]
