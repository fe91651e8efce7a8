"""What a study's findings rest on: tuning, the control, resampling, optimizers, times and memory."""

from __future__ import annotations

import copy
import math
import os
import platform
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from convbias.errors import DataError
from convbias.nn import param_groups
from convbias.ops.layout import is_channels_last
from convbias.study import (
    Bench,
    Classification,
    Cost,
    Recipe,
    Regression,
    Run,
    Study,
    Trial,
    compare,
    costs,
    training,
    tuning,
)
from convbias.study.bench import parameters
from convbias.study.comparison import compare_on
from convbias.study.control import wide_enough
from convbias.study.crew import OneByOne
from convbias.study.jobs import Job
from convbias.study.models import MODELS, Shape, in_channels_last
from convbias.study.report import cells, legend, more_cells, recommendation
from convbias.study.request import Request
from convbias.study.statistics import Interval, bootstrap, over_blocks
from convbias.tying import parse

QUICK = Recipe(epochs=2, batch_size=8)
SHAPE = Shape((1, 8, 8), 3)
small = partial(MODELS["small"], SHAPE)


def samples(n: int = 24) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 1, 8, 8), torch.arange(n) % 3


def bench(**options: Any) -> Bench:
    known = {"validation": samples(12), "task": Classification(), **options}
    return Bench(known.pop("make_model", small), samples(), known.pop("validation"), samples(9), **known)


class Watched(torch.utils.data.Dataset[Any]):
    """A data set that counts how often it is read, once it is ``watched``."""

    def __init__(self) -> None:
        self.watched, self.read = False, 0

    def __len__(self) -> int:
        return 9

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        self.read += self.watched
        return torch.full((1, 8, 8), float(i)), i % 3


def test_tuning_gives_each_tying_the_same_budget_and_never_sees_the_test_split(tmp_path: Path) -> None:
    run, test, told = Run(tmp_path, {}), Watched(), list[str]()
    recipe = replace(QUICK, learning_rate=3e-3)
    table = Bench(small, samples(), samples(12), test, Classification())
    asked = [
        Job(parse("tied"), 0, recipe),
        Job(parse("untied"), 0, recipe),
        Job(parse("tied"), 0, recipe, 24),
    ]
    test.watched = True
    found = tuning.tune(table, asked, OneByOne(), run, lambda what, _: told.append(what))
    assert test.read == 0
    assert len(list((tmp_path / "trials").iterdir())) == 3 * 6
    assert len(told) == 3 * 6 * recipe.epochs
    for kind in asked:
        tried = [trial for job in tuning.jobs([kind]) if (trial := run.finished(job)) is not None]
        assert {(trial.tying, trial.width) for trial in tried} == {(repr(kind.tying), kind.width)}
        settings = {(trial.recipe["learning_rate"], trial.recipe["weight_decay"]) for trial in tried}
        grid = [(rate, decay) for rate in (1e-3, 3e-3, 9e-3) for decay in (0.01, 0.1)]
        assert sorted(settings) == [pytest.approx(pair) for pair in grid]
        assert {trial.seed for trial in tried} == {tuning.SEED}
        best = min(tried, key=lambda trial: min(trial.curve))
        assert found[kind.label].learning_rate == best.recipe["learning_rate"]
        assert found[kind.label].weight_decay == best.recipe["weight_decay"]


def test_a_tuned_study_trains_with_what_was_found() -> None:
    study = compare_on(bench(), ["untied"], seeds=2, recipe=QUICK, tune=True)
    for trial in study.trials:
        assert trial.recipe["learning_rate"] in {QUICK.learning_rate * f for f in (1 / 3, 1.0, 3.0)}
    by_label = {(t.label, t.recipe["learning_rate"], t.recipe["weight_decay"]) for t in study.trials}
    assert len(by_label) == len({t.label for t in study.trials})
    with pytest.raises(DataError, match="validation: there is none; tuning needs a split of its own"):
        compare_on(bench(validation=None), ["untied"], seeds=1, recipe=QUICK, tune=True)


def test_the_control_has_as_many_parameters_as_the_largest() -> None:
    study = compare_on(bench(), ["untied"], seeds=2, recipe=QUICK)
    rows = {row.label: row for row in study.rows}
    control = study.control
    assert control is not None
    assert control.label == f"tied, width {control.width}"
    target = rows["untied"].parameters
    counts = {w: sum(p.numel() for p in small(width=w).parameters()) for w in range(16, 30)}
    assert control.parameters == min(counts.values(), key=lambda count: abs(count - target))
    note = next(note for note in study.notes if "control" in note)
    assert f"width {control.width} instead of 16, with {control.parameters:,} parameters" in note
    assert len(study.fields) == 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: small(), "was not run: the factory takes no width with a default"),
        (lambda width: small(width=width), "was not run: the factory takes no width with a default"),
        (
            lambda width=2: nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 3)),
            "64 times as much",
        ),
    ],
)
def test_a_control_that_cannot_be_is_named(make: Any, said: str) -> None:
    if "width" in make.__code__.co_varnames and not make.__defaults__:
        width, told = wide_enough(bench(make_model=partial(make, 4)), [parse("untied")], QUICK)
    else:
        width, told = wide_enough(bench(make_model=make), [parse("untied")], QUICK)
    assert width is None
    assert said in told


def study_of(errors: dict[str, list[float]], widths: dict[str, int] | None = None, **known: Any) -> Study:
    trials = [
        Trial(
            tying="tied" if name.startswith("tied") else name,
            seed=seed,
            width=(widths or {}).get(name),
            recipe={},
            parameters={"tied": 10, "c h": 20, "untied": 90}.get(name, 80),
            error=error,
            epoch=1,
            curve=known.get("curves", {}).get(name, ()),
            shares={},
            threads=1,
            fields={},
            tallies=known.get("tallies", {}).get(name, torch.zeros(0, 2)),
        )
        for name, values in errors.items()
        for seed, error in enumerate(values)
    ]
    return Study(known.get("task", Classification()), QUICK, tuple(trials))


def chosen(study: Study) -> str | None:
    return None if study.choice is None else study.choice.label


@pytest.mark.parametrize(
    ("control", "said"),
    [
        (
            [2.01, 2.1, 2.19],
            "has 2.100: no difference from that is found, so the gain may be that of any larger network.",
        ),
        ([2.8, 2.91, 3.0], "untied is 0.797 below it (p <0.001), so it is not the number alone."),
        ([1.0, 1.11, 1.2], "that is 1.003 below untied (p <0.001): a larger network gains more."),
    ],
)
def test_a_gain_is_held_against_the_control(control: list[float], said: str) -> None:
    errors = {"tied": [3.0, 3.1, 3.2], "untied": [2.0, 2.12, 2.2], "tied, width 9": control}
    study = study_of(errors, {"tied, width 9": 9})
    assert chosen(study) == "untied"
    assert recommendation(study).endswith(said)


def test_a_smaller_tying_that_keeps_nearly_all_is_taken_even_if_it_is_found_worse() -> None:
    errors = {"tied": [9.0, 9.1, 9.2], "c h": [3.11, 3.2, 3.31], "untied": [3.0, 3.1, 3.2]}
    assert chosen(study_of(errors)) == "c h"
    errors["c h"] = [4.01, 4.1, 4.21]
    assert chosen(study_of(errors)) == "untied"


def test_the_bootstrap_is_shown_from_ten_seeds_on() -> None:
    values = torch.randn(12, generator=torch.Generator().manual_seed(0)).tolist()
    assert bootstrap(values[:9]) is None
    assert bootstrap([1.0] * 12) is None
    found = bootstrap(values)
    assert found is not None
    low, high = stats.t.interval(0.95, 11, loc=sum(values) / 12, scale=stats.sem(values))
    assert found.low == pytest.approx(low, abs=0.15)
    assert found.high == pytest.approx(high, abs=0.15)
    study = study_of({"tied": [0.0] * 12, "untied": values})
    assert study.rows[1].bootstrap == found
    assert "Bootstrap over seeds: untied" in legend(study)
    assert "Bootstrap over seeds" not in legend(study_of({"tied": [0.0] * 9, "untied": values[:9]}))


def test_intervals_over_samples_are_the_means_and_blocks_make_them_wider() -> None:
    generator = torch.Generator().manual_seed(0)
    wrong = (torch.rand(2, 2, 4000, generator=generator) < torch.tensor([0.2, 0.3])[:, None, None]).double()
    ours, theirs = (torch.stack([w, torch.ones_like(w)], 2) for w in wrong)
    error = Classification().error
    alone = over_blocks(error, ours, theirs, torch.arange(4000))
    assert alone is not None
    apart = 100 * (wrong[0] - wrong[1]).mean(0)
    low, high = stats.t.interval(0.95, 3999, loc=apart.mean(), scale=stats.sem(apart.numpy()))
    assert (alone.low, alone.high) == (pytest.approx(low, abs=0.15), pytest.approx(high, abs=0.15))
    # The same samples, ten times each: as wide as it was when the copies go together.
    ten, others = (tallies.repeat_interleave(10, 1)[:, :8000] for tallies in (ours, theirs))
    together = over_blocks(error, ten, others, torch.arange(800).repeat_interleave(10))
    by_itself = over_blocks(error, ten, others, torch.arange(8000))
    assert together is not None
    assert by_itself is not None
    assert together.high - together.low > 2.5 * (by_itself.high - by_itself.low)
    assert over_blocks(error, ours, theirs, torch.arange(4000) % 4) is None
    same = over_blocks(error, ours, ours, torch.arange(4000))
    assert same == Interval(0, 0)


def test_few_samples_are_told_of() -> None:
    notes = compare_on(bench(), ["tied"], seeds=1, recipe=QUICK).notes
    assert "Only 12 validation samples choose the epoch: it is chosen by chance." in notes
    assert "Only 9 test samples tell the error: of others they say little." in notes
    many = compare(small, samples(), samples(30), tyings=["tied"], seeds=1, recipe=QUICK)
    assert not any(note.startswith("Only") for note in many.notes)


def test_a_row_says_when_it_catches_up() -> None:
    curves = {"tied": (9.0, 5.0, 3.0, 4.0), "untied": (4.0, 3.0, 2.0, 2.0), "none": (9.0, 8.0, 7.0, 6.0)}
    study = study_of({name: [1.0, 1.1] for name in curves}, curves=curves)
    assert {row.label: row.catches_up for row in study.rows} == {"tied": 3, "untied": 2, "none": None}
    assert [more_cells(study, row)[1] for row in study.rows] == ["epoch 3", "epoch 2", "never"]


def test_sgd_is_warned_of_and_gets_a_level_of_its_own() -> None:
    recipe = replace(QUICK, optimizer="sgd", learning_rate=0.01)
    study = compare_on(bench(), ["untied"], seeds=1, recipe=recipe)
    assert [row.label for row in study.rows][:3] == ["tied", "untied", "c + c h w"]
    assert "Under SGD the level of an untied bias moves slower" in study.notes[0]
    assert "SGD" in legend(study)
    assert not any("SGD" in note for note in compare_on(bench(), ["untied"], seeds=1, recipe=QUICK).notes)
    assert training.Training(small(), Classification(), recipe, 0, CPU).optimizer.defaults["nesterov"]


CPU = torch.device("cpu")


def by_hand(network: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> None:
    optimizer = torch.optim.AdamW(
        param_groups(network, recipe.weight_decay), lr=recipe.learning_rate, fused=True
    )
    for batch in torch.arange(len(x)).split(recipe.batch_size):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()


def test_a_step_is_the_step_that_one_would_write() -> None:
    x, y = samples()
    ours = small()
    others = copy.deepcopy(ours)
    run = training.Training(ours, Classification(), QUICK, 0, CPU)
    for batch in torch.arange(len(x)).split(QUICK.batch_size):
        run.step(x[batch], y[batch])
    by_hand(others, x, y, QUICK)
    for mine, theirs in zip(ours.parameters(), others.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_bfloat16_is_autocast() -> None:
    seen: list[torch.dtype] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(72, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            seen.append(y.dtype)
            return self.head(y.flatten(1))

    low = replace(QUICK, precision="bfloat16")
    compare_on(bench(make_model=Watching), ["untied"], seeds=1, recipe=low)
    assert seen.count(torch.bfloat16) > len(seen) / 2


def test_a_compiled_network_is_the_same_function(compile_backend: str) -> None:
    if compile_backend != "inductor":
        pytest.skip("a study compiles by Inductor, which finds no C++ compiler here")
    smooth = replace(QUICK, optimizer="sgd", learning_rate=1e-2)
    table, job = bench(), Job(parse("untied"), 0, smooth)
    plain, fast = table.run(job), table.run(replace(job, recipe=replace(smooth, compiled=True)))
    for name, field in plain.fields.items():
        torch.testing.assert_close(field, fast.fields[name], atol=1e-5, rtol=1e-4)


def test_costs_are_of_a_step_and_grow_with_the_network() -> None:
    table = bench()
    jobs = [Job(parse("tied"), 0, QUICK), Job(parse("untied"), 0, QUICK), Job(parse("tied"), 0, QUICK, 64)]
    found = costs.measure(table, jobs)
    tied, untied, wide = (found[job.label] for job in jobs)
    assert all(cost.seconds > 0 and cost.threads == torch.get_num_threads() for cost in found.values())
    assert isinstance(tied, Cost)
    assert tied.bytes is not None
    assert untied.bytes is not None
    assert wide.bytes is not None
    # Parameters, gradients and two moments; the activations of the first layer and their gradient.
    learned = parameters(small())
    activations = 2 * QUICK.batch_size * 16 * 64
    assert 4 * (4 * learned + activations) <= tied.bytes <= 4 * (5 * learned + 4 * activations)
    assert tied.bytes < untied.bytes < wide.bytes
    study = replace(study_of({"tied": [1.0, 2.0]}), costs={"tied": Cost(0.002, 3 * 2**20, 2)})
    assert more_cells(study, study.rows[0]) == ["", "", "2.0 (1.00×)", "3.0 (1.00×)"]
    assert cells(study, study.rows[0])[0] == "10"
    assert "measured one after another with nothing beside, 2 threads" in legend(study)
    compiled = training.Training(small(), Classification(), replace(QUICK, compiled=True), 0, CPU)
    assert costs.peak_bytes(compiled, lambda: None) is None


def test_the_most_bytes_alive_are_counted_and_freed() -> None:
    run = training.Training(small(), Classification(), QUICK, 0, CPU)
    still = sum(p.nbytes for p in run.network.parameters())

    def step() -> None:
        for _ in range(3):
            kept = torch.zeros(1000, dtype=torch.float64) + 1
            assert kept.view(10, 100).sum() == 1000
            del kept

    most = costs.peak_bytes(run, step)
    assert most is not None
    assert still + 2 * 8000 <= most <= still + 2 * 8000 + 100


@pytest.mark.parametrize("name", MODELS)
def test_models_fit_their_shapes_and_every_tying(name: str) -> None:
    shapes = {
        "small": [
            Shape((2, 9, 7), 5),
            Shape((2, 9, 7), 5, True),
            Shape((3, 17), 2),
            Shape((1, 4, 5, 6), 2, True),
        ],
        "unet": [Shape((2, 9, 7), 5, True), Shape((3, 17), 2, True)],
        "resnet": [Shape((3, 9, 7), 5), Shape((3, 17), 2)],
        "go": [Shape((5, 9, 9), 81)],
        "dilated": [Shape((3, 40), 2), Shape((3, 40), 2, True)],
    }[name]
    for shape in shapes:
        make = partial(in_channels_last(MODELS[name]), shape)
        inputs = torch.randn(6, *shape.inputs)
        out = (6, shape.outputs, *shape.space) if shape.dense else (6, shape.outputs)
        assert make()(inputs).shape == out
        assert sum(p.numel() for p in make(width=24).parameters()) != sum(
            p.numel() for p in make().parameters()
        )
        pair = (inputs, torch.randn(out))
        study = compare(make, pair, pair, task=Regression(), seeds=1, recipe=Recipe(epochs=1))
        assert math.isfinite(study.rows[-1].error.mean)
        assert "untied" in {row.label for row in study.rows}


def test_the_studys_own_networks_are_trained_in_channels_last() -> None:
    cpu = torch.device("cpu")
    mine = Request().bench(cpu)
    weights = [p for p in mine.start(0).parameters() if p.dim() == 4]
    # Where there is one channel, both layouts are the same.
    assert [w.is_contiguous() for w in weights] == [True, False]
    assert all(map(is_channels_last, weights))
    assert mine.base_width == 16
    others = replace(mine, make_model=Request().make_model)
    assert mine.fingerprint([0]) == others.fingerprint([0])
    torch.testing.assert_close(mine.start(0)(mine.example), others.start(0)(mine.example))


def test_a_network_of_the_users_own_lies_as_it_was_made(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "nets_of_mine.py").write_text("from torch.nn import Conv2d\nmake = lambda: Conv2d(2, 3, 3)\n")
    monkeypatch.chdir(tmp_path)
    start = Request(model="nets_of_mine:make").bench(torch.device("cpu")).start(0)
    assert all(p.is_contiguous() for p in start.parameters())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
@pytest.mark.parametrize("kept", [True, False])
def test_memory_that_is_kept_is_not_mapped_anew_in_every_step(kept: bool) -> None:
    """Faults of pages in a process of its own, for what malloc is told holds until its end."""
    code = """if True:
        import resource, sys, torch
        from convbias.study.memory import keep_freed
        assert keep_freed() == (sys.argv[1] == "True")
        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            held = [torch.ones(2**20) for _ in range(4)]
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        print(min(faults() for _ in range(10)))"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    if not kept:
        environment["MALLOC_TRIM_THRESHOLD_"] = "131072"
    done = subprocess.run(
        [sys.executable, "-c", code, str(kept)], env=environment, capture_output=True, text=True, check=True
    )
    assert (int(done.stdout) < 100) == kept


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("unet", Shape((1, 8, 8), 3), "model=unet: gives values for each place, and here are inputs"),
        ("resnet", Shape((1, 8, 8), 3, True), "model=resnet: gives values for each sample"),
        ("go", Shape((1, 8, 8), 3), "model=go: gives one score for each of 64 places of a board"),
        ("dilated", Shape((1, 8, 8), 3), "model=dilated: runs over one axis"),
        ("small", Shape((1, 3, 8), 3), "model: small pools twice and needs 4 places along each axis"),
        ("small", Shape((8,), 3), "model: takes inputs .* with one to three axes of space, not"),
    ],
)
def test_models_say_what_they_are_not_for(name: str, shape: Shape, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MODELS[name](shape)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("learning_rate", 0.0, "must be above 0"),
        ("learning_rate", math.nan, "must be above 0"),
        ("weight_decay", -1.0, "must be 0 or more"),
        ("optimizer", "adam", "'adam': must be one of adamw, sgd"),
        ("precision", "half", "'half': must be one of float32, bfloat16"),
    ],
)
def test_recipes_that_cannot_be(field: str, value: Any, said: str) -> None:
    with pytest.raises(
        ValueError, match=f"{field}={said.split(':')[0] if ':' in said else value}.*{said[-12:]}"
    ):
        replace(Recipe(), **{field: value})


def test_samples_that_are_drawn_are_drawn_alike_for_every_tying() -> None:
    drawn: list[float] = []

    class Noisy(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            x = torch.rand(1, 8, 8)
            drawn.append(x.sum().item())
            return x, i % 3

    table = Bench(small, Noisy(), samples(9), samples(9), Classification())
    seen: list[list[float]] = []
    for tying in ("tied", "untied", "rank:1"):
        drawn.clear()
        table.run(Job(parse(tying), 3, QUICK))
        seen.append(drawn[-8 * QUICK.epochs :])
    assert seen[0] == seen[1] == seen[2]
    assert len(set(seen[0])) == len(seen[0])
