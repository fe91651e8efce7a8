"""What a study found, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..errors import extra
from .comparison import REFERENCE, Row, Study
from .data import Data
from .statistics import LEVEL, Estimate

with extra("study"):
    from rich.table import Table
    from rich.text import Text


def table(study: Study) -> Table:
    """A line for each tying; the best mean stands out."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    found.add_column("tying")
    found.add_column("parameters", justify="right")
    found.add_column(study.metric, justify="right")
    found.add_column(f"minus {REFERENCE}, paired", justify="right")
    found.add_column("p (Holm)", justify="right")
    best = min(study.rows, key=lambda row: row.error.mean)
    for row in study.rows:
        # Spellings are shown as they are typed; Text keeps rich from reading them as markup.
        found.add_row(
            Text(_spelled(row)),
            f"{row.parameters:,}",
            _written(row.error),
            "" if row.difference is None else _written(row.difference, sign="+"),
            "" if row.p is None else f"{row.p:.3f}" if row.p >= 0.0005 else "<0.001",
            style="bold" if row is best else "",
        )
    return found


def verdict(study: Study) -> str:
    """What the differences say, and what they do not."""
    if study.seeds == 1:
        return "One seed has no interval: nothing can be said. Give --seeds 3 or more."
    found = [row for row in study.rows if row.found]
    hints = [r for r in study.rows if r.difference is not None and r.difference.excludes_zero and not r.found]
    said = [
        _named(f"Better than {REFERENCE}", [row for row in found if _mean(row) < 0]),
        _named("Worse", [row for row in found if _mean(row) > 0]),
        "" if found else f"No difference from {REFERENCE} found.",
        _named("Perhaps better, more seeds would tell", [row for row in hints if _mean(row) < 0]),
        _named("Perhaps worse, more seeds would tell", [row for row in hints if _mean(row) > 0]),
    ]
    return " ".join(filter(None, said))


def recommendation(study: Study) -> str:
    """Which tying to take, why, and the code that does."""
    row, best = study.choice, min(study.rows, key=lambda r: r.error.mean)
    if row.tying == REFERENCE:
        return f"Take {REFERENCE}: with these seeds and this data nothing is found to be better."
    gain = f"{-_mean(row):.3f} below {REFERENCE} ({-_mean(row) / (row.error.mean - _mean(row)):.0%})"
    why = "no other has a lower error"
    if best != row:
        why = (
            f"{_spelled(best)} has the lowest error, with {best.parameters:,}, but is not found to be better"
        )
    return (
        f"Take {_spelled(row)}: {gain}, with {row.parameters:,} parameters; {why}.\n\n"
        f"    retied = convbias.retie(model, {row.tying!r}, example_inputs)\n"
        "    model = retied.model"
    )


def legend(study: Study) -> str:
    """How to read the table's numbers."""
    return (
        f"± is Student's {LEVEL:.0%} interval over {study.seeds} seeds, for each tying by itself. p is of "
        f"the paired t test, corrected for the number of tyings (Holm): below {1 - LEVEL:.2f}, a difference "
        "is found. The split of the data is the same for all seeds."
    )


def _named(what: str, rows: list[Row]) -> str:
    return f"{what}: {', '.join(map(_spelled, rows))}." if rows else ""


def as_dict(study: Study, data: Data) -> dict[str, Any]:
    """Everything but the fields, ready for JSON."""
    return {
        "data": data.name,
        "summary": data.summary,
        "metric": study.metric,
        "baseline": None if data.baseline is None else dict([data.baseline]),
        "recipe": asdict(study.recipe),
        "rows": [asdict(row) for row in study.rows],
        "verdict": verdict(study),
        "recommendation": recommendation(study) if study.seeds > 1 else None,
        "trials": [trial.numbers for trial in study.trials],
    }


def _written(value: Estimate, sign: str = "") -> str:
    """Three digits after the point, which suits per cents and kelvins alike; ± where it is known."""
    mean = f"{value.mean:{sign}.3f}"
    return mean if value.half_width is None else f"{mean} ± {value.half_width:.3f}"


def _mean(row: Row) -> float:
    return 0.0 if row.difference is None else row.difference.mean


def _spelled(row: Row) -> str:
    return row.tying or '""'
