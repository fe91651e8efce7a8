"""Own convolutions one after another, by one call of the library."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from . import native
from .own import Convolution, Step


class Link(NamedTuple):
    """A convolution of one value, to which another may be added: the inputs are 0, 1, …, then each result."""

    convolution: Convolution
    input: int
    residual: int | None


@final
class Chain:
    """``inputs ↦`` the values that are ``wanted``, of ``links`` each of which takes values before it.

    A network's layers are called so: Python between two of them takes longer than a small convolution. What
    nobody wants lies in memory that is used again as soon as it was read for the last time.

    Equivalent to: the convolutions one by one.
    """

    def __init__(self, links: Sequence[Link], inputs: int, wanted: Sequence[int]) -> None:
        places = _Places(links, inputs, wanted)
        steps = [
            link.convolution.step(
                places.of[link.input], _if_any(places.of, link.residual), places.of[inputs + i]
            )
            for i, link in enumerate(links)
        ]
        self._links, self._sizes = links, places.sizes
        self._results = [links[number - inputs].convolution for number in wanted]
        self._count, self._steps = len(steps), (Step * len(steps))(*steps)
        self._arrays = ctypes.c_void_p * (inputs + len(wanted) + len(places.sizes))

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        given = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
        results = [convolution.new() for convolution in self._results]
        between = [torch.empty(size, dtype=torch.float32, device="cpu") for size in self._sizes]
        arrays = self._arrays(*(x.data_ptr() for x in (*given, *results, *between)))
        if not native.loaded().convbias_chain(self._steps, self._count, arrays, torch.get_num_threads()):
            raise MemoryError("no memory for a convolution's intermediate numbers")
        return results


@final
class _Places:
    """Which array each value lies in: inputs, then what is wanted, then others of ``sizes``, by turns."""

    def __init__(self, links: Sequence[Link], inputs: int, wanted: Sequence[int]) -> None:
        self.sizes = list[int]()
        self.of = {number: number for number in range(inputs)}
        self.of |= {number: inputs + i for i, number in enumerate(wanted)}
        self._first, self._free = inputs + len(wanted), set[int]()
        last = {number: i for i, link in enumerate(links) for number in (link.input, link.residual)}
        for i, link in enumerate(links):
            read = {self.of[n] for n in (link.input, link.residual) if n is not None and last[n] == i}
            if inputs + i not in self.of:
                self.of[inputs + i] = self._taken(link, read)
            read -= {self.of[inputs + i]}
            self._free |= {place for place in read if place >= self._first}

    def _taken(self, link: Link, read: set[int]) -> int:
        """A place for the result of ``link``, which has ``read`` its last values for the last time."""
        size = math.prod(link.convolution.size)
        over = _if_any(self.of, link.residual)
        # The kernel reads a number of the residual before it writes there, once.
        alone = over in read - {self.of[link.input]} and link.convolution.way in ("pointwise", "gathered")
        if over is not None and alone and over >= self._first:
            return over
        if not self._free:
            self.sizes.append(size)
            return self._first + len(self.sizes) - 1
        place = min(self._free, key=lambda place: abs(self.sizes[place - self._first] - size))
        self._free.remove(place)
        self.sizes[place - self._first] = max(size, self.sizes[place - self._first])
        return place


def _if_any(places: dict[int, int], number: int | None) -> int | None:
    return None if number is None else places[number]
