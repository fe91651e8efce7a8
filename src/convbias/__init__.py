"""convbias: the bias of a convolution, from none to untied.

y = act( b + Σ k·x ),    b one number per filter (tied), per filter and place (untied), or between.
"""

from . import functional
from .errors import ShapeError, SurgeryError, TyingError
from .folding import Folded, fold
from .geometry import Geometry, Site
from .nn import (
    Bias,
    Conv1d,
    Conv2d,
    Conv3d,
    Converted,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Decomposition,
    LazyConv1d,
    LazyConv2d,
    LazyConv3d,
    LazyConvTranspose1d,
    LazyConvTranspose2d,
    LazyConvTranspose3d,
    Retied,
    decompose,
    param_groups,
    retie,
    to_torch,
)
from .ops.choice import backend
from .ops.route import explain_route
from .tying import Regions, Tying, parse, refines
from .verifying import Verdict, verify

__version__ = "0.1.0"

__all__ = [
    "Bias",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Converted",
    "Decomposition",
    "Folded",
    "Geometry",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "Regions",
    "Retied",
    "ShapeError",
    "Site",
    "SurgeryError",
    "Tying",
    "TyingError",
    "Verdict",
    "backend",
    "decompose",
    "explain_route",
    "fold",
    "functional",
    "param_groups",
    "parse",
    "refines",
    "retie",
    "to_torch",
    "verify",
]
