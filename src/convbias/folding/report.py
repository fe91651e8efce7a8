"""What was folded, what was not and why, and what it saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from .costs import Cost
from .laws import Refused


@final
@dataclass(frozen=True)
class Fold:
    """One rewriting: its law, the layer that takes up what is ``gone``, and the bias that it has now.

    ``tyings`` are of the convolutions that changed, by name, and ``numbers`` what their biases hold together;
    ``before`` and ``after`` what the place costs.
    """

    law: str
    layer: str
    gone: tuple[str, ...]
    tyings: Mapping[str, str]
    numbers: int
    before: Cost
    after: Cost

    @property
    def bias(self) -> str:
        """The tyings of the changed convolutions, with their memory where they are untied."""
        ties = ", ".join(dict.fromkeys(self.tyings.values()))
        untied = ties not in ("", "none", "tied")
        return f"{ties} ({4 * self.numbers / 1024:,.1f} KiB in float32)" if untied else ties

    def __str__(self) -> str:
        gone = f" takes up {', '.join(self.gone)}" if self.gone else ""
        return f"{self.layer}{gone}: {self.law}" + (f"; bias {self.bias}" if self.bias else "")


@final
@dataclass(frozen=True)
class Report:
    """The outcome of :func:`convbias.fold`: a row for each place, and the whole network's cost.

    ``before`` and ``after`` are estimates for the example input: operators, multiplications and bytes moved.
    """

    target: str
    folded: tuple[Fold, ...]
    refused: tuple[Refused, ...]
    before: Cost
    after: Cost

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{len(self.folded)} folded, {len(self.refused)} refused, for {self.target}"]
        lines += [f"  {fold}" for fold in self.folded]
        lines += [f"  not {refused.layer}: {refused.law}: {refused.reason}" for refused in self.refused]
        return "\n".join([*lines, f"  {self.before.told(self.after)}"])
