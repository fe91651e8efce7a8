"""Networks that raise, diverge or answer NaN: told by tying and seed, and nothing is recommended."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convbias
from convbias.study import Classification, Recipe, Regression, Run, Segmentation, Study, compare, tuning
from convbias.study.jobs import Job
from convbias.study.page import write
from convbias.study.report import as_dict, code, csv_text, json_text, recommendation, table, verdict
from convbias.study.request import Request
from convbias.study.sources import load
from convbias.study.tasks import Task
from convbias.tying import parse

QUICK = Recipe(epochs=3, batch_size=8)


def samples(n: int = 24) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 1, 6, 6), torch.arange(n) % 3


class Fragile(nn.Module):
    """Classifies, but for ``when(network)``: then it does what ``fault`` says."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(64, 3)
        self.fault = fault

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.conv(x).flatten(1))
        if type(self.conv) is nn.Conv2d or "untied" not in repr(self.conv) or len(x) == 1:
            return y
        if self.fault == "raise" and self.training:
            raise RuntimeError("only in training")
        if self.fault == "exit" and self.training:
            sys.exit(7)
        if self.fault == "loss" and self.training:
            return y * math.nan
        if self.fault == "watched" and self.conv._forward_hooks:
            raise RuntimeError("nobody may look")
        if self.fault == "eval" and not self.training:
            return torch.where(torch.arange(len(y))[:, None] == 2, math.nan, y)
        return y


def study(fault: str, **options: Any) -> Study:
    known = {"tyings": ["tap", "untied"], "recipe": QUICK, "seeds": 2, **options}
    return compare(lambda: Fragile(fault), samples(), samples(9), **known)


@pytest.mark.parametrize(
    ("fault", "validated", "said", "epochs"),
    [
        ("loss", False, "learning_rate=0.002: the loss is nan in epoch 1; lower it, or mend the network", 0),
        ("eval", False, "the error on the test split is nan", 3),
        (
            "eval",
            True,
            "learning_rate=0.002: the validation error is nan in epoch 1; lower it, or mend the network",
            0,
        ),
    ],
)
def test_a_network_without_a_finite_error_is_told_and_the_others_are_compared(
    fault: str, validated: bool, said: str, epochs: int, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", {})
    found = study(fault, run=run, validation=samples(12) if validated else None)
    assert [trial.failure for trial in found.trials] == ["", "", said] * 2
    assert [trial.epoch for trial in found.failures] == [epochs] * 2
    assert [row.label for row in found.rows] == ["tied", "tap"]
    assert f"Without a finite error: untied, seed 0: {said}; untied, seed 1: {said}." in verdict(found)
    assert found.choice is None
    assert recommendation(found).startswith("Nothing is recommended while networks fail")
    assert code(found) == ""
    assert table(found) is not None
    kept = run.finished(Job(parse("untied"), 1, QUICK))
    assert kept is not None
    assert kept.failure == said
    # Nothing is trained again, and the end is the same.
    assert study(fault, run=run, validation=samples(12) if validated else None).trials == found.trials


def test_a_network_that_cannot_be_taken_apart_is_as_good_as_the_others(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {})
    torch.manual_seed(0)
    found = study("watched", run=run)
    torch.manual_seed(0)
    plain = study("none")
    assert [trial.error for trial in found.trials] == [trial.error for trial in plain.trials]
    assert not found.failures
    said = "untied, seed 1: its layers cannot be taken apart, RuntimeError: nobody may look."
    assert said in found.notes
    assert list(found.fields) == list(found.shares) == ["tied", "tap"]
    kept = run.finished(Job(parse("untied"), 1, QUICK))
    assert kept is not None
    assert kept.unexplained == "RuntimeError: nobody may look"
    nothing = replace(found, trials=tuple(replace(t, unexplained="no") for t in found.trials))
    data = replace(load(None), train=samples())
    asked = {
        **asdict(Request()),
        "jobs": 1,
        "threads": 1,
        "device": "cpu",
        "checksum": "",
        "convbias": "",
        "torch": "",
    }
    for given, figures in ((found, ["fields", "decomposition"]), (nothing, [])):
        written = write(tmp_path, given, data, as_dict(given, data, asked))
        assert [name for name in ("fields", "decomposition") if f"{name}.png" in written] == figures


def test_one_seed_that_fails_takes_the_whole_tying_out_of_the_comparison() -> None:
    trials = study("none").trials
    assert not any(trial.failure for trial in trials)
    broken = [
        replace(t, error=math.inf, failure="gone") if (t.tying, t.seed) == ("tap", 1) else t for t in trials
    ]
    found = Study(Classification(), QUICK, tuple(broken))
    rows = {row.label: row for row in found.rows}
    assert (rows["tap"].difference, rows["tap"].p, rows["tap"].over_samples) == (None, None, None)
    assert rows["untied"].difference is not None
    assert rows["tap"].error.half_width is None


def test_failures_in_files_for_programs() -> None:
    found = study("loss")
    data = replace(load(None), train=samples())
    read = json.loads(json_text(as_dict(found, data, {})), parse_constant=pytest.fail)
    assert [trial["error"] is None for trial in read["trials"]] == [False, False, True] * 2
    lines = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert [bool(line["failure"]) for line in lines] == [False, False, True] * 2
    (empty,) = csv.DictReader(
        io.StringIO(csv_text(replace(found, trials=(replace(found.trials[0], tying=""),))))
    )
    assert empty["tying"] == '""'
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"error": math.nan})


@pytest.mark.parametrize(
    ("fault", "said"), [("raise", "RuntimeError: only in training"), ("exit", "SystemExit: 7")]
)
def test_a_network_that_raises_is_named_with_its_tying_and_seed(fault: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"model=Fragile: under untied, seed 4, it raises {said}; mend it"):
        study(fault, seeds=[4])


def test_where_every_network_fails_there_is_no_study() -> None:
    with pytest.raises(
        ValueError, match=r"learning_rate=1e\+30: the loss is .* \(and no other network ended"
    ):
        study("none", recipe=replace(QUICK, learning_rate=1e30, optimizer="sgd"))


def test_a_recipe_that_diverges_is_the_worst_of_those_that_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"tune": True, "validation": samples(12), "seeds": 1}
    monkeypatch.setattr(tuning, "LEARNING_RATES", (1e30, 1.0))
    found = study("none", recipe=replace(QUICK, optimizer="sgd", learning_rate=0.01), **options)
    assert {trial.recipe["learning_rate"] for trial in found.trials} == {0.01}
    assert not found.failures
    told = study("loss", **options)
    (note,) = [note for note in told.notes if note.startswith("For untied, no recipe that was tried ended")]
    assert "trained with the one that was asked" in note
    assert [trial.tying for trial in told.failures] == ["untied"]


@pytest.mark.parametrize("task", [Classification(), Segmentation(3), Regression(), Regression(missing=True)])
def test_an_answer_that_is_nan_is_no_answer(task: Task) -> None:
    dense = isinstance(task, Segmentation)
    output = torch.randn(4, 1 if isinstance(task, Regression) else 3, *([5] * dense))
    target = torch.randn(4, 1) if isinstance(task, Regression) else torch.randint(3, (4, *([5] * dense)))
    assert math.isfinite(task.error(task.tallies(output, target).sum(0)).item())
    output.view(4, -1)[2, 0] = math.nan
    assert math.isnan(task.error(task.tallies(output, target).sum(0)).item())


def test_what_is_masked_by_minus_infinity_is_an_answer() -> None:
    scores = torch.tensor([[0.0, -math.inf], [1.0, 2.0]])
    task = Classification()
    assert task.error(task.tallies(scores, torch.tensor([0, 0])).sum(0)).item() == 50


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (None, "retied = convbias.retie(model, 'untied', example_inputs)"),
        ("^2$", "retied = convbias.retie(model, 'untied', example_inputs, where='^2$')"),
        (lambda name, _: name == "2", "retied = convbias.retie(model, 'untied', example_inputs, where='2')"),
    ],
)
def test_the_code_retied_what_the_study_retied(where: Any, said: str) -> None:
    """The field of the second layer decides: a target that is the row's number."""
    x = torch.randn(40, 1, 5, 5)
    target = torch.linspace(-1, 1, 5)[:, None].expand(40, 1, 5, 5)

    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1))

    recipe = Recipe(epochs=20, batch_size=20, learning_rate=0.05)
    found = compare(
        *(make, (x, target), (x, target)),
        tyings=["untied"],
        seeds=3,
        task=Regression(),
        recipe=recipe,
        where=where,
    )
    assert said in code(found).splitlines()
    assert ("Take untied in 2: " if where else "Take untied: ") in recommendation(found)
    model = make()
    names: dict[str, Any] = {"model": model, "example_inputs": x[:1]}
    exec(code(found), names)
    ours = {name for name, layer in names["model"].named_modules() if isinstance(layer, convbias.Conv2d)}
    assert ours == ({"0", "2"} if where is None else {"2"})


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (1.5, "But persistence needs no network and has 1.500: this one is no better than that."),
        (9.0, None),
    ],
)
def test_a_network_is_held_against_what_needs_none(error: float, said: str | None) -> None:
    trials = study("none").trials
    same = tuple(replace(trial, error=2.0 + trial.seed) for trial in trials)
    found = Study(Regression(), QUICK, same, baseline=("persistence", error))
    assert recommendation(found).endswith(said or "nothing is found to be better.")
