"""``torch.ops.convbias.*``: the definition (``reference``), the kernels and the way to them (``route``)."""

from . import library as library
