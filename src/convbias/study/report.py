"""What a study found, in words, tables and numbers."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..errors import extra
from .data import Data
from .jobs import Trial
from .results import KEPT, REFERENCE, Row, Study
from .statistics import LEAST_BLOCKS, LEVEL, p_value, paired

with extra("study"):
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text


# How the empty spelling is shown.
EMPTY = '""'
# So many networks that failed are named.
NAMED = 3
# What a line says beside the error.
MORE = ("over test samples", "as tied", "ms a step", "MiB")


def table(study: Study) -> Group:
    """A line for each tying, what it is worth and then what it takes; the best mean stands out."""
    worth, takes = (Table(box=None, pad_edge=False, header_style="bold") for _ in range(2))
    for found in (worth, takes):
        found.add_column("tying")
    for name in ("parameters", study.task.metric, f"minus {REFERENCE}, paired", "p (Holm)"):
        worth.add_column(name, justify="right")
    for name in MORE:
        takes.add_column(name, justify="right", no_wrap=True)
    best = min(study.rows, key=lambda row: row.error.mean)
    for row in study.rows:
        style = "bold" if row is best else ""
        # Spellings are shown as they are typed; Text keeps rich from reading them as markup.
        worth.add_row(Text(spelled(row)), *cells(study, row), style=style)
        takes.add_row(Text(spelled(row)), *more_cells(study, row), style=style)
    return Group(worth, Text(), takes)


def cells(study: Study, row: Row) -> list[str]:
    """Parameters, error, difference and p, as people read them."""
    p = "" if row.p is None else _probability(row.p)
    difference = "" if row.difference is None else study.digits.estimate(row.difference, sign="+")
    return [
        f"{row.parameters:,}",
        study.digits.estimate(row.error),
        difference,
        p if row.width is None else f"({p})" * bool(p),
    ]


def more_cells(study: Study, row: Row) -> list[str]:
    """The interval over test samples, when it catches up, the time and the memory of a step."""
    cost, reference = study.costs.get(row.label), study.costs.get(REFERENCE)
    takes = holds = ""
    if cost is not None and reference is not None:
        takes = f"{1000 * cost.seconds:.1f} ({cost.seconds / reference.seconds:.2f}×)"
        if cost.bytes is not None and reference.bytes is not None:
            holds = f"{cost.bytes / 2**20:.1f} ({cost.bytes / reference.bytes:.2f}×)"
    late = "never" if any(study.curves[row.label]) else ""
    caught = late if row.catches_up is None else f"epoch {row.catches_up}"
    return [study.digits.interval(row.over_samples), caught, takes, holds]


def verdict(study: Study) -> str:
    """What the differences say, and what they do not."""
    failed = _failed(study.failures)
    if study.seeds == 1:
        return f"{failed}One seed has no interval: nothing can be said. Give --seeds 3 or more."
    if any(trial.label == REFERENCE for trial in study.failures):
        return f"{failed}Nothing can be compared with {REFERENCE}."
    rows = [row for row in study.rows if row.width is None]
    found = [row for row in rows if row.found]
    hints = [row for row in rows if row.difference and row.difference.excludes_zero and not row.found]
    said = [
        failed.strip(),
        _named(f"Better than {REFERENCE}", [row for row in found if row.gain > 0]),
        _named("Worse", [row for row in found if row.gain < 0]),
        "" if found else f"No difference from {REFERENCE} found.",
        _named("Perhaps better, more seeds would tell", [row for row in hints if row.gain > 0]),
        _named("Perhaps worse, more seeds would tell", [row for row in hints if row.gain < 0]),
    ]
    return " ".join(filter(None, said))


def recommendation(study: Study) -> str:
    """Which tying to take and why, and whether to take any of these networks."""
    row = study.choice
    if row is None:
        return "Nothing is recommended while networks fail: mend that first, or lower --learning-rate."
    told = _against_tied(study, row), _against_control(study, row), _against_baseline(study, row)
    return " ".join(filter(None, told))


def _against_tied(study: Study, row: Row) -> str:
    if row.label == REFERENCE:
        return f"Take {REFERENCE}: with these seeds and this data nothing is found to be better."
    best = min((r for r in study.rows if r.width is None), key=lambda r: r.error.mean)
    why = "no other has a lower error"
    if best.label != row.label:
        kept = f"keeps {row.gain / best.gain:.0%} of its gain"
        unproven = "is not found to be beaten by it"
        why = (
            f"{spelled(best)} has the lowest error, with {best.parameters:,}; {spelled(row)} "
            f"{kept if row.gain >= KEPT * best.gain else unproven}"
        )
    relative = row.gain / (row.error.mean + row.gain)
    layers = "" if study.layers is None else f" in {', '.join(study.layers)}"
    return (
        f"Take {spelled(row)}{layers}: {study.digits.one(row.gain)} below {REFERENCE} ({relative:.0%}), with "
        f"{row.parameters:,} parameters; {why}."
    )


def baseline(study: Study) -> str:
    """What needs no network, to compare with."""
    if study.baseline is None:
        return ""
    return f"For comparison, {study.baseline[0]}: {study.digits.one(study.baseline[1])}."


def code(study: Study) -> str:
    """Lines of Python that give a network the recommended tying; none for tied."""
    if study.choice is None or study.choice.label == REFERENCE:
        return ""
    where = study.where
    if where is None and study.layers is not None:  # a function chose them: their names do as well
        where = "|".join(map(re.escape, study.layers))
    chosen = "" if where is None else f", where={where!r}"
    call = f"convbias.retie(model, {study.choice.tying!r}, example_inputs{chosen})"
    return (
        "import convbias\n\n# example_inputs: a batch of inputs, which shows the sizes\n"
        f"retied = {call}\nmodel = retied.model"
    )


def legend(study: Study, block: str = "a sample") -> str:
    """How to read the tables' numbers."""
    told = [
        f"± is Student's {LEVEL:.0%} interval over {study.seeds} seeds, for each tying by itself. p is of "
        "the paired t test, corrected for the number of tyings (Holm): below "
        f"{1 - LEVEL:.2f}, a difference is found. The split of the data is the same for all seeds; the "
        f"interval over test samples is that of the difference when the test split is drawn again, {block} "
        f"at a time (bootstrap; left out below {LEAST_BLOCKS} of those), and decides nothing. “As tied” is "
        "the epoch at which the mean validation error is down to tied's best."
    ]
    if any(row.bootstrap for row in study.rows):
        told.append(
            "Bootstrap over seeds: "
            + "; ".join(
                f"{spelled(r)} {study.digits.interval(r.bootstrap)}" for r in study.rows if r.bootstrap
            )
            + "."
        )
    threads = {cost.threads for cost in study.costs.values()}
    if threads:
        size = number(study.recipe.batch_size, "sample")
        told.append(
            f"Time and memory are of a training step of {size}, measured one after another with nothing "
            f"beside, {number(threads.pop(), 'thread')}."
        )
    return " ".join([*told, *study.notes])


def as_dict(study: Study, data: Data, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the tensors, ready for JSON."""
    return {
        "data": data.name,
        "summary": data.summary,
        "asked": dict(asked),
        "metric": study.task.metric,
        "baseline": None if study.baseline is None else dict([study.baseline]),
        "recipe": asdict(study.recipe),
        "rows": [asdict(row) for row in study.rows],
        "verdict": verdict(study),
        "recommendation": recommendation(study) if study.seeds > 1 else None,
        "code": code(study) if study.seeds > 1 else None,
        "notes": list(study.notes),
        "shares": study.shares,
        "costs": {label: asdict(cost) for label, cost in study.costs.items()},
        # JSON has no infinity: the error of a network that failed is null.
        "trials": [{**t.numbers, "error": None if t.failure else t.error} for t in study.trials],
    }


def json_text(report: Mapping[str, Any]) -> str:
    """The results as JSON."""
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)


def csv_text(study: Study) -> str:
    """The trials as CSV, a line for each network."""
    file = io.StringIO()
    columns = ("width", "seed", "parameters", "error", "epoch", "threads", "failure")
    learned = ("learning_rate", "weight_decay")
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(["tying", *columns, *learned, "metric"])

    def line(trial: Trial) -> list[object]:
        recipe = [trial.recipe[name] for name in learned]
        # An empty cell would read as no tying.
        return [trial.tying or EMPTY, *(getattr(trial, name) for name in columns), *recipe, study.task.metric]

    lines.writerows(map(line, study.trials))
    return file.getvalue()


def number(count: int, what: str) -> str:
    """How many of something there are.

    >>> number(1, "thread"), number(2, "thread")
    ('1 thread', '2 threads')
    """
    return f"{count} {what}{'s' * (count != 1)}"


def spelled(row: Row) -> str:
    """The row's name; the empty spelling is shown in quotes."""
    return row.label or EMPTY


def _probability(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "<0.001"


def _named(what: str, rows: list[Row]) -> str:
    return f"{what}: {', '.join(map(spelled, rows))}." if rows else ""


def _against_control(study: Study, row: Row) -> str:
    """Whether the gain is more than that of a larger network."""
    control = study.control
    if control is None or row.label == REFERENCE:
        return ""
    p = p_value(paired(study.errors[row.label], study.errors[control.label]))
    apart, digits = control.error.mean - row.error.mean, study.digits
    if p is None or p >= 1 - LEVEL:
        found = "no difference from that is found, so the gain may be that of any larger network."
    elif apart > 0:
        below = f"{spelled(row)} is {digits.one(apart)} below it (p {_probability(p)})"
        found = f"{below}, so it is not the number alone."
    else:
        below = f"that is {digits.one(-apart)} below {spelled(row)} (p {_probability(p)})"
        found = f"{below}: a larger network gains more."
    return (
        f"A tied network of width {control.width} with {control.parameters:,} parameters has "
        f"{digits.one(control.error.mean)}: {found}"
    )


def _against_baseline(study: Study, row: Row) -> str:
    """Whether a network is worth anything here."""
    if study.baseline is None:
        return ""
    name, error = study.baseline
    if row.error.mean < error:
        return ""
    return f"But {name} needs no network and has {study.digits.one(error)}: this one is no better than that."


def _failed(trials: list[Trial]) -> str:
    """The networks without a finite error, and why."""
    if not trials:
        return ""
    first = "; ".join(
        f"{trial.label or EMPTY}, seed {trial.seed}: {trial.failure}" for trial in trials[:NAMED]
    )
    more = f"; and {len(trials) - NAMED} more" if len(trials) > NAMED else ""
    return f"Without a finite error: {first}{more}. "
