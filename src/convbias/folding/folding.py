"""A network folded: check → trace → rewrite → verify."""

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from torch import Tensor
from torch.export import ExportedProgram
from torch.nn import Module

from ..verifying import Verdict, verify
from ..verifying.check import Unsteady, rounding_of
from ..verifying.inputs import checked
from .costs import TARGETS, cost
from .driver import LAWS, rewrite
from .graph import trace
from .laws import Refused
from .report import Fold, Report
from .rewrite import written


@final
@dataclass(frozen=True)
class Folded:
    """What :func:`fold` returns: the ``model``, the ``report`` of what was done, the ``verdict`` on it."""

    model: Module
    report: Report
    verdict: Verdict | None = None

    def __str__(self) -> str:
        return str(self.report)


def fold(
    model: Module | ExportedProgram,
    example_inputs: Sequence[Tensor] | Tensor,
    *,
    dynamic_shapes: Any = None,
    target: str = "eager",
    force: str | Sequence[str] = (),
    forbid: str | Sequence[str] = (),
    on_fold: Callable[[Fold], None] = lambda fold: None,
) -> Folded:
    """Rewrite ``model``, exactly, into fewer operators: what is affine around a convolution joins it.

        a·conv(s·x + T) + M = conv'(x) + B

    A normalisation before a padded convolution, constant channels, position embeddings, parallel branches,
    a constant padding … become the weight and the bias field of one convolution. A law is applied where it
    is exact and lowers the estimated cost on ``target``: "eager", "inductor" or "convbias" (its own kernels,
    where a bias field costs nothing: every convolution becomes one of its layers, with the activation
    inside). ``force`` names laws to apply wherever they are legal (or "all"), ``forbid`` laws to leave
    alone; ``convbias.folding.LAWS`` has the names.

    ``model`` is in eval mode, and is left as it is. ``example_inputs`` and ``dynamic_shapes`` are those of
    ``torch.export.export``: sizes that are not dynamic are the example's from then on. Every fold is checked
    where it is made and all of them together, with :func:`verify`; one that disagrees is undone, and told in
    the report: as a bug, or as rounding where constants cancel. The folded model has parameters of its own,
    all frozen. Where nothing is folded, as in a network that is no function of its input, ``.model`` is
    ``model`` itself.

    Raises ValueError for a network in training mode, and for one that torch.export cannot trace.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.BatchNorm2d(32), torch.nn.Conv2d(32, 48, 3, padding=1)).eval()
    >>> _ = torch.nn.init.normal_(net[0].bias)
    >>> folded = fold(net, torch.randn(2, 32, 32, 32), target="convbias")
    >>> folded.model
    GraphModule(
      (1): Conv2d(32, 48, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias='tap')
    )
    """
    # One tensor given twice would be one input to torch.export.
    inputs = tuple(x.clone() for x in checked(example_inputs))
    forced, laws = _chosen(force, forbid)
    if not isinstance(model, (Module, ExportedProgram)):
        raise ValueError(f"model={type(model).__name__}: must be a module, or an exported program")
    if target not in TARGETS:
        raise ValueError(f"target={target!r}: must be one of {', '.join(TARGETS)}")
    if isinstance(model, Module) and model.training:
        raise ValueError(
            "model: is in training mode, in which nothing can be folded; call model.eval() first"
        )
    original = model if isinstance(model, Module) else model.module(check_guards=False)

    def attempt(bugs: Collection[tuple[str, str]], most: float = math.inf, in_double: bool = False) -> Folded:
        reference, given = (original, model), inputs
        if in_double:
            reference, given = (_doubled(original),) * 2, tuple(map(_doubled, inputs))
        network = _traced(reference[1], given, dynamic_shapes)
        before = cost(network, network.nodes, TARGETS[target])
        folds, refused = rewrite(network, TARGETS[target], laws, forced, on_fold, bugs, most)
        after = cost(network, network.nodes, TARGETS[target]) if folds else before
        report = Report(target, tuple(folds), tuple(refused), before, after)
        if not folds:
            return Folded(original, report)
        result = written(network, TARGETS[target].own)
        return Folded(result, report, _verified(reference[0], result, given, dynamic_shapes))

    try:
        return _without_bugs(attempt)
    except Unsteady:
        report = attempt((), 0).report
        reason = "it gives another result for the same input, so that no rewriting of it can be checked"
        row = Refused("every law", type(original).__name__, reason)
        return Folded(original, replace(report, refused=(row, *report.refused)))


class Declared(Module):
    """A network that takes the sizes alone that it was folded for, as its folded form does."""

    def __init__(self, inner: Module, check: Any) -> None:
        super().__init__()
        self.inner, self.check = inner, check

    def forward(self, *inputs: Tensor) -> Any:
        self.check(self, inputs)
        return self.inner(*inputs)


def _verified(original: Module, result: Module, inputs: Sequence[Tensor], dynamic_shapes: Any) -> Verdict:
    """Each fold is proved at its place; here rounded weights follow one another through the network."""
    tolerance = rounding_of(original, inputs)
    (check,) = result._forward_pre_hooks.values()
    declared = Declared(original, check)
    return verify(declared, result, inputs, dynamic_shapes=dynamic_shapes, tolerance=tolerance)


def _without_bugs(attempt: Callable[..., Folded]) -> Folded:
    """The first attempt that agrees with the network; each fold that does not is told, and left out."""
    bugs: dict[tuple[str, str], Refused] = {}
    while True:
        found = attempt(bugs)
        if found.verdict is None or found.verdict:
            report = replace(found.report, refused=(*bugs.values(), *found.report.refused))
            return replace(found, report=report)
        folds = found.report.folded
        first = bisect_left(range(1, len(folds)), True, key=lambda n: not attempt(bugs, n).verdict)
        law, layer = folds[first].law, folds[first].layer
        # What is wrong is wrong in float64 as well.
        exact = attempt(bugs, first + 1, in_double=True).verdict
        why = (
            "constants cancel, and rounding outweighs what is left"
            if exact
            else "a bug in convbias, please report it"
        )
        bugs[law, layer] = Refused(law, layer, f"{why}; the fold was undone: {found.verdict}")


def _doubled(value: Any) -> Any:
    """A module, or an input, in float64; whole numbers stay."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    return copy.deepcopy(value).double()


def _chosen(force: str | Sequence[str], forbid: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """The laws that are applied at any price, and those that are tried at all."""
    lists: list[list[str]] = []
    for name, given in (("force", force), ("forbid", forbid)):
        words: Any = given
        if not isinstance(words, (str, Sequence)):
            raise ValueError(f"{name}={words!r}: must be the name of a law, or a sequence of names")
        names = [words] if isinstance(words, str) else list(words)
        for law in names:
            if law not in LAWS and law != "all":
                raise ValueError(f"{name}={law!r}: must be 'all' or one of {', '.join(map(repr, LAWS))}")
        lists.append(list(LAWS) if "all" in names else names)
    forced, forbidden = lists
    both = [law for law in forced if law in forbidden]
    if both:
        raise ValueError(f"force={both[0]!r}: is also forbidden; leave it out of one of both")
    return forced, [law for law in LAWS if law not in forbidden]


def _traced(model: Module | ExportedProgram, inputs: tuple[Tensor, ...], dynamic_shapes: Any) -> Any:
    try:
        return trace(model, inputs, dynamic_shapes)
    except Exception as error:
        raise ValueError(
            f"model={type(model).__name__}: torch.export cannot trace it with inputs "
            f"{[tuple(x.shape) for x in inputs]}: {type(error).__name__}: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """What torch says, without the advice on debugging that follows it."""
    return str(error).strip().split("\n\n")[0]
