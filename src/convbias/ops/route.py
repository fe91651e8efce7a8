"""Which kernels run a call, and why not the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from . import aten, convolve, native, training, volumes, ways
from .call import Call, recorded
from .choice import chosen
from .epilogue import IS_CHEAP, KEEPING, finish, finishing, is_cheap, native_refusal, too_few
from .few import Few, few_of
from .followers import follower, traced
from .layout import memory_order
from .trained import Trained, trained


@final
@dataclass(frozen=True)
class Route:
    """What ran a call: whose ``convolution`` and ``epilogue`` (field and activation), and why no others.

    ``packed_bytes`` is what the layer keeps of its weight in the convolution's own order, beside the weight.
    """

    shape: tuple[int, ...]
    convolution: str
    epilogue: str
    not_convolution: dict[str, str]
    not_epilogue: dict[str, str]
    packed_bytes: int = 0

    def __str__(self) -> str:
        lines = ["×".join(map(str, self.shape))]
        for part, by, others in (
            ("convolution", self.convolution, self.not_convolution),
            ("field and activation", self.epilogue, self.not_epilogue),
        ):
            lines.append(f"  {part} by {by}")
            lines += [f"    not {name}: {reason}" for name, reason in others.items()]
        if self.packed_bytes:
            lines.append(f"  weight kept in its order: {self.packed_bytes / 2**20:.2f} MiB")
        return "\n".join(lines)


Reasons = dict[str, str | None]

# What runs where nothing else does.
LAST = ("torch", "steps", "nothing")

_watched: ContextVar[list[Route] | None] = ContextVar("convbias_routes", default=None)


def explain_route(function: Callable[..., object], *args: Any, **kwargs: Any) -> list[Route]:
    """Run ``function(*args, **kwargs)`` and tell which kernels ran each of convbias's convolutions in it.

    ``function`` may be a layer, a model, or one of :mod:`convbias.functional`. Raises TypeError for what
    cannot be called.

    >>> import torch, convbias
    >>> layer = convbias.Conv2d(1, 2, 3, bias="untied", output_size=(4, 4))
    >>> with torch.no_grad():
    ...     print(explain_route(layer, torch.zeros(1, 1, 6, 6))[0])
    1×2×4×4
      convolution by torch
        not own: the image is small
        not onednn: torch's convolution is as fast, but for 3D images one by one and packed weights
      field and activation by steps
        not own: the image is small
        not onednn: the image is small
        not native: the output has fewer than 16384 numbers: torch's single steps are as fast
        not aten: the output has fewer than 16384 numbers: torch's single steps are as fast
        not in_place: the image is small: to ask who else sees the output takes longer
    """
    if not callable(function):
        raise TypeError(f"function={function!r}: must be a layer, a model or a function, to be called")
    routes = list[Route]()
    token = _watched.set(routes)
    try:
        function(*args, **kwargs)
    finally:
        _watched.reset(token)
    return routes


def run(call: Call) -> Tensor:
    """Run ``call`` by the first kernels, fastest first, that do not refuse it; the last refuse nothing."""
    tensors = call.tensors
    if follower(tensors) is not None:
        y = aten.composite(call)
    elif call.input.dim() < call.weight.dim():
        return run(call._replace(input=call.input[None]))[0]
    elif recorded(tensors):
        y = step_of(call)(call.input, call.weight, call.bias)
    else:
        few = few_for(call)
        y = _many(call) if few is None else few(call.input, call.weight, call.bias)
    tell(call, y)
    return y


def at_once() -> bool:
    """Whether a small call needs no :func:`run`: whatever follows, torch's steps are what it comes to.

    torch.compile must not be tracing.
    """
    if torch.is_grad_enabled() or traced():
        return False
    return _watched.get() is None and chosen() != "native"


def few_for(call: Call) -> Few | None:
    """What runs a small ``call`` where no gradient is recorded, of which no own kernel would take part."""
    # Where a weight is kept packed, there is a kernel that it was packed for.
    if call.packed is not None or chosen() == "native":
        return None
    field = call.bias[0].shape if call.tying == "untied" else None
    sizes = (call.input.shape, call.weight.shape, field)
    return few_of(*sizes, call.geometry, call.tying, call.groups, call.activation)


def tell(call: Call, y: Tensor, added: bool = False) -> None:
    """Tell :func:`explain_route`, where it waits, what made ``y``: oneDNN, if it ``added`` to the field."""
    watching = _watched.get()
    if watching is None:
        return
    if not added:
        watching.append(_told(call, y, not recorded(call.tensors) and few_for(call) is not None))
        return
    told, own = _told(call.activating, y, False), str(ways.refusal(call))
    if not call.activation:
        told = replace(told, epilogue=convolve.NAME, not_epilogue={"own": own})
    watching.append(replace(told, convolution=convolve.NAME, not_convolution={"own": own}))


def watched() -> bool:
    """Whether :func:`explain_route` is to be told of every call."""
    return _watched.get() is not None


def _many(call: Call) -> Tensor:
    """Where no gradient is recorded."""
    if ways.refusal(call) is None:
        return ways.run(call)
    run, left = convolution(call)
    return _finished_if_any(left, run(call, call.input))


def step_of(call: Call) -> Trained | Stepwise:
    """What runs ``call`` where a gradient is recorded, and others on tensors that lie like its own."""
    found = trained(call)
    return found if found is not None and found.is_whole else Stepwise(call, found)


_NONE = torch.empty(0, device="cpu")


@final
class Stepwise:
    """``call`` where a gradient is recorded, in several steps: nothing is asked again for another like it.

    Equivalent to: ``run(call._replace(input=input, weight=weight, bias=bias))``.
    """

    def __init__(self, call: Call, own: Trained | None) -> None:
        # The tensors are others at each call, and may have been computed from much else.
        self._call = (call if own is None else call.bared)._replace(input=_NONE, weight=_NONE, bias=())
        self._own = own
        self._finish: Callable[[Call, Tensor], Tensor] | None = None

    def __call__(self, input: Tensor, weight: Tensor, bias: Sequence[Tensor]) -> Tensor:
        call = self._call._replace(input=input, weight=weight, bias=bias)
        y = call.convolve(input) if self._own is None else self._own(input, weight, bias)
        if not (call.fielded or call.activation):
            return y
        if self._finish is None:
            self._finish = EPILOGUES[_epilogue(call, y)][0]
        return self._finish(call, y)


def convolution(call: Call) -> tuple[Callable[[Call, Tensor], Tensor], Call]:
    """What convolves ``call``'s input, or one like it, where no own convolution does; and what it leaves."""
    if convolve.fused_refusal(call) is None:
        return convolve.fused, call.activating
    return convolve.convolve if convolve.refusal(call) is None else Call.convolve, call


def _finished_if_any(call: Call, y: Tensor) -> Tensor:
    return finished(call, y) if call.fielded or call.activation else y


def finished(call: Call, y: Tensor) -> Tensor:
    """The field and the activation of ``call`` onto its convolution ``y``, which may be written over."""
    return EPILOGUES[_epilogue(call, y)][0](call, y)


def finisher(call: Call, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The same for all convolutions like ``y``, where no gradient is recorded: what it needs is made once."""
    if not (call.fielded or call.activation):
        return lambda y: y
    name = _epilogue(call, y)
    if name == "in_place":
        return partial(aten.in_place, call.field(), call.activation)
    return finishing(y, call.summands(), call.activation, native if name == "native" else aten)


def _epilogue(call: Call, y: Tensor) -> str:
    # What the first two would say one after the other.
    few = chosen() != "native" and too_few(call, y.numel()) is not None
    for name in FOR_FEW if few else EPILOGUES:
        if EPILOGUES[name][1](call, y) is None:
            return name
    raise AssertionError("single steps refuse nothing")


def may_write(tensors: Sequence[Tensor]) -> bool:
    """Whether a call on ``tensors`` may write its output in place, and keep what it computes."""
    return follower(tensors) is None and not recorded(tensors)


def _told(call: Call, y: Tensor, few: bool) -> Route:
    followed = follower(call.tensors)
    own = followed or (training.refusal(call) if recorded(call.tensors) else ways.refusal(call))
    plan = ways.plan_of(call) if own is None else None
    name = plan.way if plan else "own"
    fused = followed or convolve.fused_refusal(call)
    convolutions: Reasons = {
        name: own,
        "onednn": fused and (followed or _no_onednn(call)),
        "torch": None,
    }
    epilogues: Reasons = {"nothing": None}
    # Joined to torch's convolution, a tied bias is a field.
    joined = own is not None and followed is None and _is_joined(call)
    call = call.bared if joined else call
    if call.fielded or call.activation:
        alone = "it leaves the activation to others" if call.activation else None
        apart = recorded(call.tensors) and not training.is_whole(call)
        later = "the activation's derivative needs what goes in" if apart else None
        epilogues = {name: own or later, "onednn": fused or alone}
        epilogues |= {name: followed or refusal(call, y) for name, (_, refusal) in EPILOGUES.items()}
        if few and followed is None:
            epilogues["in_place"] = "the image is small: to ask who else sees the output takes longer"
        if joined:
            epilogues["native"] = None
    convolution, not_convolution = _first(convolutions)
    epilogue, not_epilogue = _first(epilogues)
    kept = call.packed.weight.nbytes if call.packed else 0
    return Route(tuple(y.shape), convolution, epilogue, not_convolution, not_epilogue, kept)


def _is_joined(call: Call) -> bool:
    """Whether all that follows torch's convolution is joined to it for the sake of its gradients."""
    if not recorded(call.tensors) or not training.is_whole(call):
        return False
    return _is_turned(call) or training.of_weights(call, call.weight.requires_grad) is not None


def _is_turned(call: Call) -> bool:
    """Whether it is a single volume whose step goes around torch's slow way."""
    return volumes.is_slow(call) and training.is_joined(call)


def _no_onednn(call: Call) -> str | None:
    return None if _is_turned(call) else convolve.refusal(call)


def _first(reasons: Reasons) -> tuple[str, dict[str, str]]:
    """The first that has no reason against it, and those before it with theirs."""
    first = next(name for name, reason in reasons.items() if reason is None or name in LAST)
    before = list(reasons)[: list(reasons).index(first)]
    return first, {name: str(reasons[name]) for name in before}


def _no_native(call: Call, y: Tensor) -> str | None:
    return native_refusal(call, y.dtype, y.numel()) or _not_fresh(y)


def _no_aten(call: Call, y: Tensor) -> str | None:
    if is_cheap(call):
        return IS_CHEAP
    return too_few(call, y.numel()) or _not_fresh(y)


def _not_fresh(y: Tensor) -> str | None:
    if y._is_view() or memory_order(y) is None:  # pyright: ignore[reportPrivateUsage]
        return "the output is a view, or its samples are not dense in memory"
    return None


def _no_writing(call: Call, y: Tensor) -> str | None:
    if recorded(call.tensors) and call.activation in KEEPING:
        return "a gradient is recorded, which needs what goes into the activation"
    return None


def _never(call: Call, y: Tensor) -> str | None:
    return None


EPILOGUES: dict[str, tuple[Callable[[Call, Tensor], Tensor], Callable[[Call, Tensor], str | None]]] = {
    "native": (lambda call, y: finish(y, call.summands(), call.activation, native), _no_native),
    "aten": (lambda call, y: finish(y, call.summands(), call.activation, aten), _no_aten),
    "in_place": (lambda call, y: aten.in_place(call.field(), call.activation, y), _no_writing),
    "steps": (aten.steps, _never),
}
FOR_FEW = ("in_place", "steps")
