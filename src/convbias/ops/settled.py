"""A call of which it is settled what runs it: for layers, which make the same one again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

from torch import Tensor

from . import packing, route, ways
from .call import Call
from .layout import field_as, form_of


@final
class Settled:
    """``call`` for inputs that lie like its own, with parameters that stay what they are.

    No gradient is recorded, and nothing else follows (:func:`route.may_write`). Which kernels refuse it is
    asked once, and what they need is made ready: to ask takes longer than a small convolution. What
    ``others`` of the same parameters have may do for this one.

    Equivalent to: ``route.run(call._replace(input=input))``, and where there is a residual, that is added
    before the activation.
    """

    def __init__(self, call: Call, others: Sequence[Settled] = ()) -> None:
        if call.tying == "untied":
            form = form_of(call.input, call.weight)
            call = call._replace(bias=[field_as(form, call.bias[0].detach())])
        known = [other.call.packed for other in others if other.call.packed]
        call = call._replace(packed=packing.ready(call, packing.packed(call, known)))
        # The input is another one at the next call.
        self.call = call._replace(input=call.weight)
        self._whole = call.packed.run if call.packed else None
        self.convolution = call.packed.whole if call.packed else None
        self._convolve: Callable[[Call, Tensor], Tensor] | None = None
        # What finishes an output that lies so: by other threads or flags torch lays its own otherwise.
        self._finish: tuple[tuple[int, ...], Callable[[Tensor], Tensor]] | None = None
        batched = call.input.dim() == call.weight.dim()
        self._few = route.few_for(call)
        if self._whole is None and self._few is None and batched and ways.refusal(call) is not None:
            self._convolve, left = route.convolution(call)
            self._left = left._replace(input=call.weight)

    def __call__(self, input: Tensor, residual: Tensor | None) -> Tensor:
        if not route.watched():
            if self._whole is not None:
                return self._whole(self.call, input, residual)
            if self._few is not None and residual is None:
                return self._few(input, self.call.weight, self.call.bias)
            if self._convolve is not None and residual is None:
                return self._convolved_and_finished(self._convolve, input)
        call = self.call._replace(input=input)
        if residual is None:
            return route.run(call)
        y = route.run(call._replace(activation="")).add_(residual)
        return route.finished(call.activating, y) if call.activation else y

    def _convolved_and_finished(self, convolve: Callable[[Call, Tensor], Tensor], input: Tensor) -> Tensor:
        y = convolve(self.call, input)
        lie, ready = y.stride(), self._finish  # which another thread may replace meanwhile
        if ready is None or ready[0] != lie:
            ready = self._finish = lie, route.finisher(self._left._replace(input=input), y)
        return ready[1](y)
