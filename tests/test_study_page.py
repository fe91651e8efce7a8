"""The page, the files beside it, and the command that asks for the same again."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convbias import cli
from convbias.study.page import command
from convbias.study.request import Request

QUICK = ["--epochs", "2", "--seeds", "2", "--tying", "untied", "--jobs", "1"]


def study(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["convbias", "study", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code


class Page(HTMLParser):
    """What a page shows and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.loads: list[str] = []
        self.alternatives: list[str | None] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "img":
            self.alternatives.append(known.get("alt"))
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words += data.split()


@pytest.fixture(scope="module")
def forecast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a small field whose mean differs from row to row, tuned, with its page."""
    folder = tmp_path_factory.mktemp("forecast")
    random = np.random.default_rng(0)
    np.savez(folder / "field<1>.npz", t=random.normal(size=(240, 5, 7)), time=np.arange(240))
    with pytest.MonkeyPatch.context() as monkeypatch:
        asked = ["--data", folder / "field<1>.npz", "--task", "forecast", "--lead", 2, "--tune"]
        study(monkeypatch, *asked, *QUICK, "--out", folder / "run")
    return folder / "run"


def test_the_page_needs_nothing_else_and_says_it_all(forecast: Path) -> None:
    text = (forecast / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.loads) == 4
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.loads)
    assert all(page.alternatives)
    assert "<1>" not in text, "names are escaped"
    report = json.loads((forecast / "results.json").read_text())
    words = " ".join(page.words)
    for said in (
        *(report["verdict"], report["recommendation"], report["data"], report["asked"]["checksum"]),
        *(report["asked"]["torch"], "over test samples", "learning rate, weight decay", "persistence:"),
        *(f"{row['parameters']:,}" for row in report["rows"]),
        "convbias study --data 'field<1>.npz' --task forecast --lead 2 --tying untied --seeds 2 --tune",
    ):
        assert " ".join(str(said).split()) in words
    assert str(forecast.parent) not in text
    for row in report["rows"]:
        assert f"{row['error']['mean']:.3f}" in words


def test_tuning_is_told_for_each_tying(forecast: Path) -> None:
    report = json.loads((forecast / "results.json").read_text())
    assert report["asked"]["tune"] is True
    for trial in report["trials"]:
        assert trial["recipe"]["learning_rate"] / 2e-3 in (1 / 3, 1.0, 3.0)
    shown = Page((forecast / "report.html").read_text()).words
    for trial in report["trials"]:
        assert f"{trial['recipe']['learning_rate']:.3g}," in shown
    assert len(list((forecast / "trials").glob("*tuning*.trial"))) == 3 * 6


def test_trials_are_a_table_for_other_programs(forecast: Path) -> None:
    report = json.loads((forecast / "results.json").read_text())
    with (forecast / "trials.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["error"]) for line in lines] == [trial["error"] for trial in report["trials"]]
    assert {line["tying"] for line in lines} == {"tied", "untied"}
    assert {line["metric"] for line in lines} == {"RMSE"}


def test_the_results_hold_what_decides(forecast: Path) -> None:
    report = json.loads((forecast / "results.json").read_text())
    untied = next(row for row in report["rows"] if row["label"] == "untied")
    pairs = {
        trial["seed"]: trial["error"] - other["error"]
        for trial in report["trials"]
        for other in report["trials"]
        if (trial["tying"], other["tying"]) == ("untied", "tied")
        and trial["seed"] == other["seed"]
        and trial["width"] == other["width"]
    }
    assert untied["difference"]["mean"] == pytest.approx(sum(pairs.values()) / 2)
    assert sum(report["shares"]["untied"]["0"].values()) == pytest.approx(1)
    assert report["costs"]["untied"]["seconds"] > 0
    assert all(len(trial["curve"]) == 2 for trial in report["trials"])


REQUESTS: dict[str, Callable[[], Request]] = {
    "default": Request,
    "much": lambda: Request(
        **{"data": "a b.nc", "task": "forecast", "lead": 3, "variable": "t2m", "mask": True, "model": "unet"},
        **{"where": "down.*|head", "tyings": ("c + h w", "rank:1"), "seeds": 7, "tune": True, "epochs": 4},
        **{"batch_size": 8, "learning_rate": 0.1, "weight_decay": 0.0, "optimizer": "sgd"},
        precision="bfloat16",
        compiled=True,
    ),
    "empty spelling": lambda: Request(tyings=("", "none")),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_the_command_asks_for_the_same(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import convbias.cli.study as module

    request = REQUESTS[case]()
    monkeypatch.chdir(tmp_path)
    heard: list[Any] = []
    monkeypatch.setattr(module, "_run", lambda *arguments: heard.append(arguments))
    words = shlex.split(command({**asdict(request), "jobs": 3}))
    assert words[:2] == ["convbias", "study"]
    study(monkeypatch, *words[2:])
    ((again, _, _, (jobs, _), begun, _),) = heard
    assert again == request
    assert (jobs, begun) == (3, None)


def test_another_process_is_given_the_words_alone() -> None:
    import pickle

    request = Request(epochs=3)
    assert request.loaded.name == "digits"
    sent = pickle.dumps(request)
    assert len(sent) < 2000
    assert pickle.loads(sent) == request
    assert re.search("digits", sent.decode("latin-1")) is None
