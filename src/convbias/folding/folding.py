"""A network folded: check → trace → rewrite → verify."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor
from torch.export import ExportedProgram
from torch.nn import Module

from ..errors import ShapeError
from ..verifying import Verdict, verify
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
    where a bias field costs nothing). ``force`` names laws to apply wherever they are legal (or "all"),
    ``forbid`` laws to leave alone; ``convbias.folding.LAWS`` has the names.

    ``model`` is in eval mode, and is left as it is. ``example_inputs`` and ``dynamic_shapes`` are those of
    ``torch.export.export``: sizes that are not dynamic are the example's from then on. Every fold is checked
    where it is made and all of them together, with :func:`verify`; what disagrees is undone, and told in the
    report as a bug. Where nothing is folded, ``.model`` is ``model`` itself.

    Raises ValueError for a network in training mode, and for one that torch.export cannot trace.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 4, 3, padding=1)).eval()
    >>> _ = torch.nn.init.normal_(net[0].bias)
    >>> folded = fold(net, torch.randn(2, 3, 8, 8), target="convbias")
    >>> folded.model
    GraphModule(
      (1): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias='tap')
    )
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    forced, laws = _chosen(force, forbid)
    if target not in TARGETS:
        raise ValueError(f"target={target!r}: must be one of {', '.join(TARGETS)}")
    if isinstance(model, Module) and model.training:
        raise ValueError(
            "model: is in training mode, in which nothing can be folded; call model.eval() first"
        )
    network = _traced(model, inputs, dynamic_shapes)
    original = model if isinstance(model, Module) else model.module(check_guards=False)
    before = cost(network, network.nodes, TARGETS[target])
    folds, refused = rewrite(network, TARGETS[target], laws, forced, on_fold)
    after = cost(network, network.nodes, TARGETS[target])
    if not folds:
        return Folded(original, Report(target, (), tuple(refused), before, before))
    result = written(network)
    verdict = verify(original, result, inputs, dynamic_shapes=_axes(dynamic_shapes, len(inputs)))
    if not verdict:
        bugs = [Refused(f.law, f.layer, f"a bug in convbias, please report it: {verdict}") for f in folds]
        return Folded(original, Report(target, (), (*bugs, *refused), before, before), verdict)
    return Folded(result, Report(target, tuple(folds), tuple(refused), before, after), verdict)


def _chosen(force: str | Sequence[str], forbid: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """The laws that are applied at any price, and those that are tried at all."""
    lists: list[list[str]] = []
    for name, given in (("force", force), ("forbid", forbid)):
        names = [given] if isinstance(given, str) else list(given)
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
        told = str(error).strip().splitlines() or [""]
        raise ValueError(
            f"model={type(model).__name__}: torch.export cannot trace it with inputs "
            f"{[tuple(x.shape) for x in inputs]}: {type(error).__name__}: {told[0]}"
        ) from error


def _axes(dynamic_shapes: Any, number: int) -> list[Mapping[int, Any]] | None:
    """The dynamic axes of each input, in verify's words."""
    if dynamic_shapes is None:
        return None
    given = list(dynamic_shapes.values()) if isinstance(dynamic_shapes, Mapping) else list(dynamic_shapes)
    if len(given) != number:
        raise ShapeError("dynamic_shapes", dynamic_shapes, f"needs one entry for each of the {number} inputs")
    return [axes if isinstance(axes, Mapping) else dict(enumerate(axes or ())) for axes in given]
