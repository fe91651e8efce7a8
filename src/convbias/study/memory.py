"""What becomes of memory between training steps."""

from __future__ import annotations

import ctypes
import os
import sys

# As malloc.h numbers them, and the most that each takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST_TRIM, _MOST_MMAP = 2**31 - 1, 2**25

# The same for processes to come.
VARIABLES = {"MALLOC_TRIM_THRESHOLD_": str(_MOST_TRIM), "MALLOC_MMAP_THRESHOLD_": str(_MOST_MMAP)}


def keep_freed() -> bool:
    """Let glibc keep freed memory for the next step, and tell whether it does.

    Otherwise it goes back to the system and is mapped anew, page by page, in every step: a third of the
    time of a small network's. What the environment says of it holds; other allocators stay as they are.
    """
    if sys.platform != "linux" or _is_told():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _MOST_TRIM) and mallopt(_MMAP_THRESHOLD, _MOST_MMAP))


def _is_told() -> bool:
    """Whether the environment says what malloc is to do."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "glibc.malloc" in tunables or any(name.startswith("MALLOC_") for name in os.environ)
