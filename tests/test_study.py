"""The comparison: paired bit for bit, repeatable, with intervals that are what they say."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.testing import assert_close

import convbias
from convbias.errors import DataError, OutputError
from convbias.study import (
    Classification,
    Data,
    Recipe,
    Regression,
    Run,
    Segmentation,
    Study,
    Trial,
    compare,
    training,
)
from convbias.study.comparison import TYINGS
from convbias.study.data import classification, split_at_random
from convbias.study.jobs import Job
from convbias.study.models import small
from convbias.study.report import as_dict, code, recommendation, verdict
from convbias.study.statistics import Estimate, estimate, p_value, paired
from convbias.study.tasks import Task
from convbias.tying import parse

FINER = ("tied", "c h + c w", "rank:1", "grid:2", "untied", "tap")
QUICK = Recipe(epochs=2, batch_size=8)


class Watched(nn.Module):
    """A network with dropout that keeps what it was called with, and what it answered first."""

    inputs: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4 * 36, 3)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(torch.relu(self.conv(x)))
        if self.training:
            SEEN.append((x.detach().clone(), (y == 0).detach().clone(), y.detach().clone()))
        return self.head(y.flatten(1))


SEEN: list[tuple[Tensor, Tensor, Tensor]] = []


def samples(n: int = 24) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 1, 6, 6), torch.arange(n) % 3


def run(tyings: tuple[str, ...] = FINER, **options: Any) -> Study:
    train, test = samples(), samples(9)
    return compare(Watched, train, test, tyings=tyings, recipe=QUICK, **options)


def test_every_tying_sees_the_same_start_the_same_batches_and_the_same_dropout() -> None:
    SEEN.clear()
    run(seeds=2)
    steps = 2 * 3
    trials = [SEEN[i : i + steps] for i in range(0, len(SEEN), steps)]
    assert len(trials) == 2 * len(FINER)
    for seed in (0, 1):
        first, *others = trials[seed * len(FINER) : (seed + 1) * len(FINER)]
        for other in others:
            for (x, _, _), (x_other, _, _) in zip(first, other, strict=True):
                assert torch.equal(x, x_other)
            # All of these are finer than tied: before the first step they are one function.
            assert_close(first[0][2], other[0][2])
            assert torch.equal(first[0][1], other[0][1])
    assert not torch.equal(trials[0][0][0], trials[len(FINER)][0][0])
    # Every sample once an epoch, in another order the next time.
    epochs = [torch.cat([x for x, _, _ in trials[0][:3]]), torch.cat([x for x, _, _ in trials[0][3:]])]
    assert not torch.equal(*epochs)
    rows = [sorted(map(tuple, epoch.flatten(1).tolist())) for epoch in epochs]
    assert rows[0] == rows[1]


def test_a_study_repeats_bit_for_bit_whatever_the_generators_state_and_leaves_it_alone() -> None:
    train, test = samples(), samples(9)
    options: dict[str, Any] = {"tyings": ["rank:1", "untied"], "seeds": [3, 4], "recipe": QUICK}
    first = compare(Watched, train, test, **options)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = compare(Watched, train, test, **options)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.trials == again.trials
    for one, other in zip(first.trials, again.trials, strict=True):
        assert all(torch.equal(one.fields[name], other.fields[name]) for name in one.fields)


def test_a_tying_is_not_touched_by_the_others() -> None:
    torch.manual_seed(1)
    data = [samples(), samples(9)]
    alone = compare(Watched, data[0], data[1], tyings=["untied"], seeds=[3], recipe=QUICK)
    among = compare(Watched, data[0], data[1], tyings=["none", "tap", "untied"], seeds=[3], recipe=QUICK)
    assert alone.trials[-1] == among.trials[-1]


def test_the_network_learns_and_its_field_bends() -> None:
    torch.manual_seed(1)
    # The label is in the position of one bright pixel, which an untied bias need not even know.
    places = torch.arange(90) % 3
    images = 0.1 * torch.randn(90, 1, 6, 6)
    images[torch.arange(90), 0, 2 * places, 2 * places] += 3
    study = compare(
        *(Watched, (images[:60], places[:60]), (images[60:], places[60:])),
        tyings=["none", "untied"],
        seeds=1,
        recipe=Recipe(epochs=12, batch_size=8, learning_rate=1e-2),
    )
    assert all(trial.error < 10 for trial in study.trials)
    assert study.fields["untied"]["conv"].std(dim=(1, 2)).max() > 1e-3
    assert study.fields["tied"]["conv"].std(dim=(1, 2)).max() < 1e-6
    assert study.fields["none"]["conv"].abs().max() == 0


def test_the_epoch_is_chosen_on_the_validation_split() -> None:
    torch.manual_seed(1)
    train, validation, test = samples(), samples(12), samples(9)
    options: dict[str, Any] = {"tyings": ["tied"], "seeds": 1}
    long = compare(
        *(Watched, train, test),
        validation=validation,
        recipe=Recipe(epochs=8, batch_size=8, learning_rate=0.05),
        **options,
    ).trials[0]
    assert long.epoch == 1 + long.curve.index(min(long.curve))
    assert 1 < len(long.curve) == 8
    assert long.epoch < 8, "choose data on which the last epoch is not the best one"
    # Stopped there, the last epoch is the chosen one: same state, same error.
    short = compare(
        *(Watched, train, test),
        recipe=Recipe(epochs=long.epoch, batch_size=8, learning_rate=0.05),
        **options,
    ).trials[0]
    assert (short.error, short.curve) == (long.error, ())
    assert torch.equal(short.fields["conv"], long.fields["conv"])


def test_tied_is_always_compared_and_no_tying_twice() -> None:
    study = run(("untied", "c", "untied", "c + tap"), seeds=1)
    assert [row.tying for row in study.rows] == ["untied", "tied", "c + tap"]
    assert [row.difference is None for row in study.rows] == [False, True, False]
    counted = {row.tying: row.parameters for row in study.rows}
    linear = 4 * 36 * 3 + 3
    assert counted == {
        "tied": 36 + 4 + linear,
        "untied": 36 + 4 * 36 + linear,
        "c + tap": 36 + 4 + 36 + linear,
    }


def test_what_cannot_be_had_is_refused_before_training() -> None:
    SEEN.clear()
    x, y = samples()
    places = (torch.arange(36).reshape(6, 6) % 3).expand(24, 6, 6)
    cases: list[tuple[dict[str, Any], type[ValueError], str]] = [
        ({"tyings": ["h c"]}, convbias.TyingError, "axes go in the order"),
        ({"tyings": ["untied", "c l"]}, convbias.SurgeryError, "'c l', at 'l': a 2D bias has the axes"),
        ({"seeds": 0}, ValueError, "seeds=0: at least one"),
        ({"seeds": "12"}, ValueError, "seeds='12': must be a whole number, or several in a list"),
        ({"seeds": 2.5}, ValueError, "seeds=2.5: must be a whole number"),
        ({"seeds": [1.0]}, ValueError, r"seeds=\[1.0\]: must be whole numbers"),
        ({"tyings": "untied"}, ValueError, r"tyings='untied': must be a list; write \['untied'\]"),
        (
            {"blocks": torch.arange(5)},
            ValueError,
            r"blocks=\(5,\): must be one number for each of the 24 test",
        ),
        ({"device": "nope"}, ValueError, "device=nope: must be cpu, cuda or cuda:N"),
        (
            {"make_model": nn.Conv2d(1, 2, 3)},
            ValueError,
            "make_model=Conv2d: must be a function that makes a new",
        ),
        ({"make_model": lambda: 1 / 0}, ValueError, "make_model: the factory failed, ZeroDivisionError"),
        ({"make_model": lambda: sys.exit(7)}, ValueError, "make_model: the factory failed, SystemExit: 7"),
        ({"make_model": lambda: 3}, ValueError, "make_model: must return a torch.nn.Module, not int"),
        (
            {"train": 3},
            DataError,
            r"train: must be a pair of tensors \(inputs, targets\) or a Dataset .* int",
        ),
        ({"test": (x, y.float())}, DataError, "test: labels must be whole numbers; targets.long"),
        ({"test": (x, y - 1)}, DataError, "test: the label -1 is no class; they are numbered from 0"),
        (
            {
                "task": Segmentation(3),
                "test": (x, torch.full((24, 6, 6), -100)),
                "train": (x, x.long()[:, 0].abs()),
            },
            DataError,
            "test: every target is missing",
        ),
        ({"test": (x, y[:3])}, DataError, "test: 24 inputs but 3 targets"),
        ({"train": (x * math.nan, y)}, DataError, "train: 864 of 864 values are NaN"),
        ({"validation": (x[:0], y[:0])}, DataError, "validation: no samples"),
        ({"make_model": lambda: nn.Flatten()}, convbias.SurgeryError, "the model has no convolution"),
        ({"make_model": lambda: nn.Linear(3, 3)}, ValueError, r"model=Linear: does not take the data \(1, 1"),
        (
            {"train": (x, torch.where(y == 2, 7, y)), "test": (x, y % 2)},
            ValueError,
            r"outputs \(1, 3\) do not suit the targets \(1,\)",
        ),
        ({"make_model": lambda: nn.Conv2d(1, 2, 3)}, ValueError, r"outputs \(1, 2, 4, 4\) do not suit the"),
        ({"test": (x, y + 1)}, DataError, "test: the class 3 is not in the training split; leave it out"),
        (
            {
                "make_model": lambda: nn.Conv2d(1, 4, 3, padding=1),
                "task": Segmentation(4),
                "test": (x, places + 1),
                "train": (x, places),
            },
            DataError,
            "test: the class 3 is not in the training split; leave it out",
        ),
    ]
    for given, raised, said in cases:
        options = {"make_model": Watched, "train": (x, y), "test": (x, y), "recipe": QUICK, **given}
        with pytest.raises(raised, match=said):
            compare(options.pop("make_model"), options.pop("train"), options.pop("test"), **options)
    assert SEEN == []


def test_arrays_and_lists_are_tensors_and_a_width_shows() -> None:
    x, y = samples()
    options: dict[str, Any] = {"tyings": ["untied"], "seeds": 1, "recipe": QUICK}
    plain = compare(Watched, (x, y), (x, y), **options)
    learned = x.clone().requires_grad_()
    pairs = list(zip(learned, y.int(), strict=True))
    for given in ((x.numpy(), y.numpy()), [x, y], (learned, y.int()), (x, y.to(torch.uint8)), pairs):
        assert compare(Watched, cast(Any, given), (x, y), **options).trials == plain.trials
    two = [compare(Watched, (x, labels), (x, labels), **options) for labels in (y > 0, (y > 0).long())]
    assert two[0].trials == two[1].trials

    def wide(width: int = 4) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, width, 3), nn.Flatten(), nn.Linear(16 * width, 3))

    assert compare(wide, (x, y), (x, y), **options).control is not None


def test_without_tied_it_is_compared_first() -> None:
    assert [row.tying for row in run(("untied",), seeds=1).rows] == ["tied", "untied"]


def test_a_layer_that_keeps_its_bias_is_named() -> None:
    x, y = torch.randn(12, 1, 6, 4), torch.arange(12) % 2

    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, (3, 1)), nn.Flatten(), nn.Linear(8, 2))

    with pytest.warns(UserWarning, match="under sym:d4, layer 0: left tied: .*square"):
        compare(net, (x, y), (x, y), tyings=["sym:d4"], seeds=1, recipe=QUICK)


@pytest.mark.parametrize(("field", "value"), [("epochs", 0), ("batch_size", -1)])
def test_a_recipe_that_trains_nothing(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field}={value}: must be at least 1"):
        replace(Recipe(), **{field: value})


def test_intervals_are_scipys() -> None:
    values, reference = [1.2, 0.9, 1.7, 1.1], [1.0, 1.1, 1.2, 0.7]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 3, loc=found.mean, scale=stats.sem(values))
    assert (found.mean - low, high - found.mean) == pytest.approx((found.half_width,) * 2)
    apart = paired(dict(enumerate(values)), dict(enumerate(reference)))
    found = estimate(apart)
    assert found.half_width is not None
    low, high = stats.ttest_rel(values, reference).confidence_interval(0.95)
    assert (low, high) == pytest.approx((found.mean - found.half_width, found.mean + found.half_width))
    assert p_value(apart) == pytest.approx(stats.ttest_rel(values, reference).pvalue)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 1.0, 1.0], [0.0, 0.0]])
def test_what_says_nothing_has_no_p_value(values: list[float]) -> None:
    assert p_value(values) is None


def test_few_false_findings_where_there_is_nothing_to_find() -> None:
    """Five tyings against tied, all alike: Holm's correction keeps false studies near one in twenty."""
    draws = torch.randn(400, 6, 5, generator=torch.Generator().manual_seed(0)).tolist()
    names = ["tied", "none", "tap", "c h", "rank:1", "untied"]
    studies = [_study(dict(zip(names, errors, strict=True))) for errors in draws]
    false = sum(any(row.found for row in study.rows) for study in studies)
    assert 5 <= false <= 32
    uncorrected = sum(
        any((p_value([a - b for a, b in zip(e, errors[0], strict=True)]) or 1) < 0.05 for e in errors[1:])
        for errors in draws
    )
    assert uncorrected > 2 * false


def _study(errors: dict[str, list[float]], parameters: dict[str, int] | None = None) -> Study:
    trials = [
        trial(
            *(tying, seed),
            parameters=(parameters or {}).get(tying, 10),
            error=error,
            failure="too much" if math.isinf(error) else "",
        )
        for tying, values in errors.items()
        for seed, error in enumerate(values)
    ]
    return Study(Classification(), Recipe(), tuple(trials))


def trial(tying: str, seed: int, **known: Any) -> Trial:
    numbers: dict[str, Any] = {
        **{"width": None, "recipe": {}, "parameters": 10, "error": 1.0, "epoch": 1, "curve": ()},
        **{"shares": {}, "threads": 1, "fields": {}, "tallies": torch.zeros(0, 2)},
    }
    return Trial(tying=tying, seed=seed, **{**numbers, **known})


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({"tied": [3.0, 3.1], "untied": [2.0, 2.1001]}, "Better than tied: untied."),
        ({"tied": [3.0, 3.1], "none": [4.0, 4.1001], "": [5, 5.1001]}, 'Worse: none, "".'),
        ({"tied": [3, 3.1], "none": [4, 4.1001], "tap": [2, 2.1001]}, "Better than tied: tap. Worse: none."),
        ({"tied": [3.0, 3.1], "untied": [2.0, 3.2]}, "No difference from tied found."),
        (
            {"tied": [3.0, 3.1], "untied": [2.0, 2.2], "tap": [3, 2], "none": [4.0, 4.2]},
            "No difference from tied found. Perhaps better, more seeds would tell: untied. "
            "Perhaps worse, more seeds would tell: none.",
        ),
        (
            {"tied": [3.0, 3.1, 3.2], "untied": [2.0, 2.1, math.inf], "tap": [2.0, 2.1001, 2.2]},
            "Without a finite error: untied, seed 2: too much. Better than tied: tap.",
        ),
        (
            {"tied": [3.0, math.inf, math.inf], "": [2.0, math.inf, math.inf]},
            "Without a finite error: tied, seed 1: too much; tied, seed 2: too much; "
            '"", seed 1: too much; and 1 more. '
            "Nothing can be compared with tied.",
        ),
        (
            {"tied": [3.0], "untied": [2.0]},
            "One seed has no interval: nothing can be said. Give --seeds 3 or more.",
        ),
    ],
)
def test_the_verdict_says_what_the_differences_say(errors: dict[str, list[float]], said: str) -> None:
    assert verdict(_study(errors)) == said


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({"tied": [3.0, 3.1, 3.2], "untied": [3.2, 3.0, 3.1]}, "Take tied: with these seeds and this data"),
        (
            {"tied": [3.0, 3.1, 3.2], "untied": [2.0, 2.11, 2.2], "none": [4.0, 4.12, math.inf]},
            "Nothing is recommended while networks fail: mend that first, or lower --learning-rate.",
        ),
        (
            {"tied": [3.0, 3.1, 3.2], "untied": [2.0, 2.11, 2.2], "none": [4.0, 4.12, 4.2]},
            "Take untied: 0.997 below tied (32%), with 12 parameters; no other has a lower error.",
        ),
        # rank:1 is as good as untied as far as these seeds show, and smaller; tap is smaller, and worse.
        (
            {
                "tied": [3, 3.1, 3.2],
                "untied": [2, 2.11, 2.2],
                "rank:1": [2.05, 2.1, 2.2],
                "tap": [2.5, 2.6, 2.71],
            },
            "Take rank:1: 0.983 below tied (32%), with 11 parameters; untied has the lowest error, with 12; "
            "rank:1 keeps 99% of its gain.",
        ),
    ],
)
def test_the_recommendation_is_the_smallest_of_the_best(errors: dict[str, list[float]], said: str) -> None:
    study = _study(errors, {"none": 9, "tied": 9, "tap": 10, "rank:1": 11, "untied": 12})
    assert recommendation(study).startswith(said)
    taken = said.split()[1].rstrip(":")
    lines = f"retied = convbias.retie(model, {taken!r}, example_inputs)\nmodel = retied.model"
    assert code(study).endswith(lines) if taken in errors and taken != "tied" else not code(study)


def test_an_interrupted_study_pairs_the_seeds_that_both_have() -> None:
    rows = _study({"tied": [1.0, 2.0], "untied": [4.0]}).rows
    assert rows[1].difference == Estimate(3.0, None)
    assert _study({"none": [1.0]}).rows[0].difference is None


def test_the_report_is_plain_json() -> None:
    splits = split_at_random("noise", torch.randn(30, 1, 8, 8), torch.arange(30) % 2)
    data: Data = classification("noise", splits)
    study = compare(
        *(partial(small, data.shape), data.train, data.test),
        validation=data.validation,
        seeds=2,
        recipe=Recipe(epochs=1),
    )
    report = json.loads(json.dumps(as_dict(study, data, {"seeds": 2})))
    control = f"tied, width {report['rows'][-1]['width']}"
    assert [row["label"] for row in report["rows"]] == [*TYINGS[2], control]
    assert len(report["trials"]) == 2 * (len(TYINGS[2]) + 1)
    mean = sum(t["error"] for t in report["trials"] if t["tying"] == "tap") / 2
    assert report["rows"][TYINGS[2].index("tap")]["error"]["mean"] == pytest.approx(mean)
    assert report["recipe"]["epochs"] == 1


def judged(task: Task, output: Tensor, target: Tensor) -> float:
    return task.error(task.tallies(output, target).sum(0)).item()


def test_classification() -> None:
    output, target = torch.tensor([[3.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1, 1])
    assert judged(Classification(), output, target) == pytest.approx(100 / 3)
    assert_close(Classification().loss(output, target), nn.functional.cross_entropy(output, target))


def test_regression_leaves_out_what_is_missing() -> None:
    task = Regression(scale=3.0, unit="K")
    output, target = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])
    assert judged(task, output, target) == pytest.approx(3 * math.sqrt(2))
    assert (task.metric, Regression().metric) == ("RMSE in K", "RMSE")
    output = torch.tensor([[1.0, 2.0], [5.0, 5.0]], requires_grad=True)
    target = torch.tensor([[1.0, 4.0], [math.nan, 7.0]])
    masked = replace(task, missing=True)
    assert judged(masked, output.detach(), target) == pytest.approx(3 * math.sqrt((0 + 4 + 4) / 3))
    loss = masked.loss(output, target)
    assert loss.item() == pytest.approx(8 / 3)
    loss.backward()
    assert_close(output.grad, torch.tensor([[0.0, -4 / 3], [0.0, -4 / 3]]))
    assert masked.terms(target) == 3
    with pytest.raises(ValueError, match=r"outputs \(2,\) for targets \(2, 2\)"):
        task.tallies(torch.zeros(2), torch.zeros(2, 2))


def test_segmentation_is_the_mean_intersection_over_union() -> None:
    truth = torch.tensor([[0, 0, 1, 1], [1, -100, 0, 0]])
    answer = torch.tensor([[0, 1, 1, 1], [1, 0, 0, 1]])
    scores = nn.functional.one_hot(answer, 3).movedim(-1, 1).float()
    task = Segmentation(3)
    # Class 0: 2 of 4 places; class 1: 3 of 5; class 2 is nowhere and does not count.
    assert judged(task, scores, truth) == pytest.approx(100 * (1 - (2 / 4 + 3 / 5) / 2))
    assert_close(task.loss(scores, truth), nn.functional.cross_entropy(scores, truth))
    assert task.terms(truth) == 7
    nothing = torch.full((1, 4), -100)
    assert task.loss(scores[:1], nothing).item() == 0


@pytest.mark.parametrize("task", [Classification(), Segmentation(2), Regression(scale=2.0, missing=True)])
def test_the_error_of_a_split_is_that_of_its_parts_sums(task: Task) -> None:
    dense = not isinstance(task, Classification)
    output = torch.randn(8, 1 if isinstance(task, Regression) else 2, *([5] * dense))
    target = torch.randn(8, 1, 5) if isinstance(task, Regression) else torch.randint(2, (8, *([5] * dense)))
    tallies = task.tallies(output, target)
    assert (len(tallies), tallies.dtype) == (8, torch.float64)
    for part in (slice(3), slice(3, 8)):
        assert_close(task.tallies(output[part], target[part]), tallies[part])
    assert task.error(torch.stack([tallies.sum(0)] * 3)).shape == (3,)


class Killed(Exception):
    pass


@pytest.mark.parametrize("epochs_before", [0, 1, 4, 5, 6, 9])
def test_a_study_that_was_killed_ends_with_the_numbers_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs_before: int
) -> None:
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    splits = samples(), samples(9), samples(12)
    options: dict[str, Any] = {"tyings": ["rank:1"], "seeds": 1, "recipe": Recipe(epochs=5, batch_size=8)}

    def study(folder: str) -> Study:
        run = Run(tmp_path / folder, {"of": "this"})
        return compare(Watched, splits[0], splits[1], validation=splits[2], run=run, **options)

    whole = study("whole")
    left, epoch = epochs_before, training.Training.epoch

    def dying(self: Any, *arguments: Any) -> None:
        nonlocal left
        if left == 0:
            left = -1
            raise Killed
        left -= 1
        epoch(self, *arguments)

    monkeypatch.setattr(training.Training, "epoch", dying)
    with pytest.raises(Killed):
        study("broken")
    SEEN.clear()
    resumed = study("broken")
    assert len(SEEN) == 3 * (10 - epochs_before), "goes on where it was, and trains nothing twice"
    assert resumed.trials == whole.trials
    for one, other in zip(resumed.trials, whole.trials, strict=True):
        assert all(torch.equal(one.fields[name], other.fields[name]) for name in other.fields)
    assert not list((tmp_path / "broken").rglob("*.checkpoint"))
    SEEN.clear()
    assert study("broken").trials == whole.trials
    assert SEEN == []


def test_a_folder_holds_one_study(tmp_path: Path) -> None:
    Run(tmp_path / "run", {"seeds": 3, "tyings": ["tap"]})
    Run(tmp_path / "run", {"seeds": 3, "tyings": ["tap"]})
    with pytest.raises(OutputError, match=r"holds another study \(other seeds\); choose another folder"):
        Run(tmp_path / "run", {"seeds": 4, "tyings": ["tap"]})
    (tmp_path / "run" / "request.json").write_text("{")
    with pytest.raises(OutputError, match=r"request\.json: cannot be read"):
        Run(tmp_path / "run", {})


def test_a_run_that_never_began_leaves_nothing(tmp_path: Path) -> None:
    assert Run(tmp_path / "new", {}).stop() == 0
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    assert Run(tmp_path / "mine", {}).stop() == 0
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"nonsense", "cut"])
def test_a_damaged_trial_is_named(tmp_path: Path, damage: bytes | str) -> None:
    run, job = Run(tmp_path, {}), Job(parse("c + h w"), 0, QUICK)
    kept = trial("c + h w", 0, curve=(2.0, 1.0), fields={"0": torch.ones(3)}, tallies=torch.ones(4, 2))
    run.keep(job, kept)
    found = run.finished(job)
    assert found == kept
    assert found is not None
    assert (found.fields["0"].tolist(), found.tallies.tolist()) == ([1, 1, 1], [[1, 1]] * 4)
    (file,) = (tmp_path / "trials").iterdir()
    file.write_bytes(file.read_bytes()[:100] if isinstance(damage, str) else damage)
    with pytest.raises(OutputError, match=r"is damaged .* delete it to train this one again"):
        run.finished(job)
