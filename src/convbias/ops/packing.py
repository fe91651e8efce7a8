"""A weight in the order that its kernel wants, for those who keep it: layers, and compiled graphs."""

from __future__ import annotations

from collections.abc import Sequence

from . import convolve, own, ways
from .call import Call, Packed


def packed(call: Call, known: Sequence[Packed] = ()) -> Packed | None:
    """The weight of ``call`` as the fastest kernel for inputs like its own wants it; None: as it is.

    One that is ``known`` for other inputs already may do for these.
    """
    if ways.worth_packing(call):
        return ways.pack(call, known)
    if convolve.worth_packing(call.input, call.weight, call.geometry):
        return convolve.pack(call.input, call.weight, call.geometry, call.groups)
    return None


def ready(call: Call, packed: Packed | None) -> Packed | None:
    """What :func:`packed` gave, with all else of ``call`` that can be made ready before there is an input."""
    if packed is None:
        return None
    return (ways if packed.way in own.WAYS else convolve).ready(call, packed)
