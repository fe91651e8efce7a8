"""``convbias fold`` and ``convbias verify``, as they are typed."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from convbias import cli
from convbias.folding.archive import load_program

Command = Callable[..., tuple[int, str, str]]
NETS = """
from collections import namedtuple
import torch
from torch import nn
from convbias.verifying import randomised

def make():
    torch.manual_seed(0)
    first = nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, padding=1)
    return randomised(nn.Sequential(*first, nn.ReLU(), nn.Conv2d(4, 2, 1)))

class Several(nn.Sequential):
    def forward(self, x):
        return {"both": [super().forward(x), x]}

def several():
    return Several(*make())

def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())

def fresh():
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3, eps=0), nn.Conv2d(3, 8, 3))

def fresh_folded():
    return fresh()[1:]

Pair = namedtuple("Pair", "first second")

class Named(nn.Sequential):
    def forward(self, x):
        return Pair(super().forward(x), x)

def named():
    return Named(*make())

def other():
    model = plain()
    nn.init.zeros_(model[0].bias)
    return model

def refused():
    return nn.Sequential(nn.Conv2d(3, 8, 1, padding=1), nn.Conv2d(8, 8, 3))

class Mask(nn.Sequential):
    def forward(self, x):
        return super().forward(x) > 0

def mask():
    return Mask(*make())

class Unknown(nn.Sequential):
    def forward(self, x):
        return torch.where(x[:, :1] > 0, super().forward(x), torch.nan)

def unknown():
    return Unknown(*make())

def stopped():
    raise KeyboardInterrupt

def broken():
    raise RuntimeError("out of order")
"""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run the command in this process, in a folder with nets.py: (exit status, stdout, stderr)."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["convbias", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


MAKE = ("--model", "nets:make", "--input", "1,3,8,9")


def test_a_network_is_folded_and_written(command: Command, tmp_path: Path) -> None:
    status, out, err = command("fold", *MAKE, "-o", "folded.pt2", "--measure", "--force", "all")
    assert status == 0
    rows = [line.split("  ")[0].strip() for line in out.splitlines()[1:3]]
    assert rows == ["1", "2"]
    assert "tap (" in out
    assert "operators 5 -> 3" in out
    assert out.splitlines()[0].split()[-4:] == ["operators", "MMAC", "MiB", "moved"]
    assert "2 -> 1" in out.splitlines()[1]
    assert " ms -> " in out
    assert "the same function" in out
    assert "Written to folded.pt2" in err
    x = torch.randn(1, 3, 8, 9)
    from nets import make  # pyright: ignore

    # In torch's operators alone: it runs where convbias is not.
    program = load_program(tmp_path / "folded.pt2")
    assert not any("convbias" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), make().eval()(x), rtol=1e-4, atol=1e-4)
    assert command("verify", "nets:make", "folded.pt2", "--input", "1,3,8,9")[0] == 0
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".pt2", ".py"]


def test_several_outputs_are_written_as_they_are(command: Command) -> None:
    status, _, err = command("fold", "--model", "nets:several", *MAKE[2:], "-o", "several.pt2")
    assert status == 0, err
    assert list(load_program("several.pt2").module()(torch.randn(1, 3, 8, 9))) == ["both"]
    status, _, err = command("verify", "nets:several", "several.pt2", *MAKE[2:])
    assert status == 0, err


def test_a_network_that_decides(command: Command) -> None:
    words = ("--model", "nets:mask", *MAKE[2:], "-o", "mask.pt2", "--force", "all")
    status, out, err = command("fold", *words)
    assert status == 0, err
    assert "the same function" in out
    assert command("verify", "nets:mask", "nets:make", *MAKE[2:])[0] == 1


def test_any_batch(command: Command, tmp_path: Path) -> None:
    status, _, err = command(
        "fold", "--model", "nets:make", "--input", "*,3,8,9", "-o", "any.pt2", "--force", "all"
    )
    assert status == 0, err
    program = load_program(tmp_path / "any.pt2")
    assert program.module(check_guards=False)(torch.randn(5, 3, 8, 9)).shape[0] == 5


def test_a_file_that_is_folded_again_takes_any_size_still(command: Command) -> None:
    sizes = ("--input", "*,3,*,*")
    for words in (("--model", "nets:make", *sizes, "--forbid", "composition"), ("1.pt2", "--force", "all")):
        status, _, err = command("fold", *words, "-o", "2.pt2" if words[0] == "1.pt2" else "1.pt2")
        assert status == 0, err
    status, out, err = command("verify", "1.pt2", "2.pt2")
    assert status == 0, out + err
    assert load_program("2.pt2").module(check_guards=False)(torch.randn(3, 3, 11, 12)).shape[0] == 3


def test_what_no_file_can_hold_is_told(command: Command, tmp_path: Path) -> None:
    status, out, err = command("fold", "--model", "nets:named", *MAKE[2:], "-o", "named.pt2")
    assert status == 2, out + err
    assert "cannot write what the network takes or returns" in err
    assert not (tmp_path / "named.pt2").exists()


def test_a_file_has_its_own_sizes(command: Command) -> None:
    assert (
        command("fold", *MAKE, "-o", "made.pt2", "--forbid", "composition", "--force", "affine before")[0]
        == 0
    )
    for size, more, said in (
        ("1,3,8,8", (), "input=1,3,8,8: the file's network takes 1,3,8,9"),
        ("1,3,8,9", ("--input", "1"), "input: 2 given, and the file's network takes 1"),
        (
            "1,3,8,9:int64",
            (),
            "input=1,3,8,9: is of torch.int64, and the file's network takes torch.float32",
        ),
    ):
        for words in (("fold", "made.pt2"), ("verify", "made.pt2", "made.pt2")):
            status, _, err = command(*words, "--input", size, *more)
            assert status == 2
            assert err == f"error: {said}\n"


def test_normalisations_hide_nothing_where_they_are_random(command: Command) -> None:
    words = ("verify", "nets:fresh", "nets:fresh_folded", "--input", "1,3,8,8")
    assert command(*words)[0] == 0
    status, _, err = command(*words, "--random-statistics")
    assert status == 2
    assert "random_statistics: both networks need the same normalisations" in err
    assert command("verify", "nets:fresh", "nets:fresh", "--input", "1,3,8,8", "--random-statistics")[0] == 0


def test_the_report_as_json(command: Command) -> None:
    status, out, _ = command(
        "fold", *MAKE, "--json", "--target", "convbias", "--force", "composition", "--forbid", "affine before"
    )
    assert status == 0
    report = json.loads(out)
    assert [row["law"] for row in report["folded"]] == ["composition"]
    assert report["verdict"]["same"] is True
    assert report["target"] == "convbias"
    assert report["after"]["macs"] < report["before"]["macs"]


def test_a_full_disk_is_told(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    status, _, err = command("fold", *MAKE, "-o", "folded.pt2")
    assert status == 2
    assert "folded.pt2: cannot be written (No space left on device); free space" in err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["nets.py"]


def test_what_is_stopped_is_told_on_one_line(command: Command) -> None:
    status, out, err = command("fold", "--model", "nets:stopped", "--input", "1,3,8,8")
    assert status == 130
    assert len((out + err).splitlines()) <= 1


def identity(path: Path, kind: str, *shape: Any, ranked: bool = True) -> Path:
    """An ONNX file of a network that does nothing."""
    onnx = pytest.importorskip("onnx")
    helper, dtype = onnx.helper, getattr(onnx.TensorProto, kind)
    size = shape if ranked else None
    values = [helper.make_tensor_value_info(name, dtype, size) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


# What the file takes, what else is said on the line, the exit status, and what is told.
FILES: dict[str, tuple[tuple[Any, ...], tuple[str, ...], int, str]] = {
    "huge": (("FLOAT", 100000, 100000, 1000), (), 2, "example_inputs=(100000, 100000, 1000): cannot be made"),
    "bytes with a sign": (("INT8", 2, 3), (), 0, "the same function"),
    "truths": (("BOOL", 2, 3), (), 0, "the same function"),
    "words": (("STRING", 2, 3), (), 2, "its input x is a tensor(string); must be one of"),
    "another size": (
        ("FLOAT", 1, 3, 8, 8),
        ("--input", "1,3,9,9"),
        2,
        "example_inputs[0]=(1, 3, 9, 9): is of",
    ),
    "another type": (
        ("FLOAT", 2, 3),
        ("--input", "2,3:int64"),
        2,
        "is of torch.int64, and the file's x is a",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_what_onnx_files_take(command: Command, tmp_path: Path, case: str) -> None:
    takes, more, expected, said = FILES[case]
    identity(tmp_path / "a.onnx", *takes)
    status, out, err = command("verify", "a.onnx", "a.onnx", *more)
    assert status == expected, err
    assert said in out + err


def sizes_compared(out: str) -> set[tuple[int, ...]]:
    return {tuple(case["sizes"][0]) for case in json.loads(out)["cases"]}


def test_onnx_files_that_leave_sizes_open(command: Command, tmp_path: Path) -> None:
    identity(tmp_path / "any.onnx", "FLOAT", ranked=False)
    identity(tmp_path / "number.onnx", "FLOAT")
    identity(tmp_path / "unnamed.onnx", "FLOAT", 1, 3, None, None)
    status, out, err = command("verify", "any.onnx", "any.onnx")
    assert (status, out) == (2, "")
    assert "model: its input x has no rank; say its size, as in --input 1,3,224,224" in err
    status, out, err = command("verify", "any.onnx", "any.onnx", "--input", "1,3,8,9", "--json")
    assert status == 0, err
    assert sizes_compared(out) == {(1, 3, 8, 9)}
    status, out, _ = command("verify", "any.onnx", "any.onnx", "--input", "1,3,*,9", "--json")
    assert {(1, 3, 1, 9), (1, 3, 64, 9)} <= sizes_compared(out)
    assert command("verify", "number.onnx", "number.onnx")[0] == 0
    status, out, _ = command("verify", "unnamed.onnx", "unnamed.onnx", "--json")
    assert {(1, 3, 1, 1), (1, 3, 64, 64), (1, 3, 7, 12)} <= sizes_compared(out)


def test_a_second_file_of_another_size_is_bad_input(command: Command, tmp_path: Path) -> None:
    identity(tmp_path / "a.onnx", "FLOAT", 1, 3, 9, 9)
    status, _, err = command("verify", "nets:plain", "a.onnx", "--input", "1,3,8,8")
    assert status == 2
    assert "the file's x is a tensor(float) of [1, 3, 9, 9]" in err


def test_nothing_to_fold_is_no_file(command: Command, tmp_path: Path) -> None:
    status, out, _ = command("fold", "--model", "nets:refused", "--input", "1,3,8,8", "-o", "folded.pt2")
    assert status == 3
    assert "Nothing to fold." in out
    assert "None" not in out
    assert not (tmp_path / "folded.pt2").exists()


def test_a_fold_that_disagrees_is_not_written(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convbias.folding import driver, rewrite

    monkeypatch.setattr(driver, "disagreement", lambda network, site: 0.0)
    monkeypatch.setattr(
        rewrite, "bias_of", lambda conv, size, dtype: (rewrite.TIED, (torch.zeros(len(conv.weight)),))
    )
    status, out, _ = command("fold", *MAKE, "-o", "folded.pt2", "--force", "all")
    assert status == 3
    assert "a bug in convbias, please report it; the fold was undone: not the same" in " ".join(out.split())
    assert not (tmp_path / "folded.pt2").exists()


def test_an_exported_network_that_disagrees_is_not_written(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convbias.cli import fold
    from convbias.folding.programs import exported

    def wrong(model: Any, *rest: Any) -> Any:
        return exported(torch.nn.Sequential(model, torch.nn.ReLU()), *rest)

    monkeypatch.setattr(fold, "exported", wrong)
    status, _, err = command("fold", *MAKE, "-o", "folded.pt2")
    assert status == 1
    assert "the exported network disagrees, and was not written: not the same function" in err
    assert not (tmp_path / "folded.pt2").exists()


@pytest.mark.parametrize("size", ["1,3,8,8:qint8", "99999,99999,99999,99", "1,3,8:str", "0,3,8,8"])
def test_inputs_that_cannot_be_made(command: Command, size: str) -> None:
    status, _, err = command("fold", "--model", "nets:make", "--input", size)
    assert status == 2
    assert f"input={size}: " in err


def test_a_rewriting_that_disagrees_is_undone_and_told(
    monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    from convbias.folding import laws

    true = laws.before
    monkeypatch.setattr(laws, "before", lambda conv, scale, shift, size: true(conv, scale, None, size))
    status, out, _ = command("fold", *MAKE, "--force", "all", "--json")
    report = json.loads(out)
    bugs = [row for row in report["refused"] if "a bug in convbias" in row["reason"]]
    assert [row["law"] for row in bugs] == ["affine before"]
    assert status == 0
    assert [row["law"] for row in report["folded"]] == ["composition"]


def test_two_networks_that_differ(command: Command) -> None:
    status, out, _ = command("verify", "nets:plain", "nets:other", "--input", "1,3,8,8")
    assert status == 1
    assert "not the same function" in out
    assert command("verify", "nets:plain", "nets:other", "--input", "1,3,8,8", "--tolerance", "10")[0] == 0
    status, out, _ = command("verify", "nets:plain", "nets:plain", "--input", "1,3,8,8", "--json")
    assert status == 0
    assert json.loads(out)["same"] is True


def test_what_is_infinitely_far_is_null(command: Command) -> None:
    def no_json(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    status, out, _ = command("verify", "nets:make", "nets:unknown", *MAKE[2:], "--json")
    assert status == 1
    verdict = json.loads(out, parse_constant=no_json)
    assert any(case["interior"] is None for case in verdict["cases"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fold",), "model: give a .pt2 file, or --model module:factory"),
        (("fold", "a.pt2", *MAKE), "one of both"),
        (("fold", "a.onnx"), "file=a.onnx: must be a .pt2 file"),
        (("fold", "a.pt2"), "a.pt2: cannot be read (No such file or directory)"),
        (("fold", "nets.pt2"), "nets.pt2: is no .pt2 file"),
        (("fold", "--model", "nets:make"), "model=nets:make: needs the size of its input; say --input"),
        (
            ("fold", "--model", "nets:broken", "--input", "1,3,8,8"),
            "the factory failed, RuntimeError: out of order",
        ),
        (("fold", "--model", "nets:make", "--input", "1,x"), "input=1,x: must be sizes"),
        (("fold", "--model", "nets:make", "--input", "1,3,8,8:int9"), "input=1,3,8,8:int9: must be"),
        (("fold", "--model", "nets:make", "--input", "1,4,8,8"), "torch.export cannot trace it"),
        (("fold", *MAKE, "-o", "folded.onnx"), "folded.onnx: must end in .pt2"),
        (("fold", *MAKE, "-o", "no/where.pt2"), "its folder is not there"),
        (("fold", *MAKE, "--force", "magic"), "force='magic': must be 'all' or one of 'affine after'"),
        (
            ("verify", "nets:make", "nets.py", "--input", "1,3,8,8"),
            "nets.py: must be a .pt2 or an .onnx file",
        ),
        (("verify", "nets:make", "none.onnx", "--input", "1,3,8,8"), "none.onnx: there is no such file"),
    ],
)
def test_bad_words_are_told_on_one_line(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "nets.pt2").write_text("no archive")
    status, out, err = command(*arguments)
    assert status == 2
    assert said in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert out == ""


def test_help_has_examples(command: Command) -> None:
    for name in ("fold", "verify"):
        status, out, _ = command(name, "--help")
        assert status == 0
        assert f"convbias {name} " in out
        assert "Exit status" in out
