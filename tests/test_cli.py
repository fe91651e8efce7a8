"""The command, as it is typed: what is printed where, what is written, and the exit status."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import convbias
from convbias import cli

# One process: to start others takes longer than these studies.
QUICK = ["--epochs", "1", "--seeds", "2", "--tying", "untied", "--jobs", "1"]
WRITTEN = {
    *("request.json", "report.html", "results.json", "trials.csv"),
    *(f"{n}.{e}" for n in ("differences", "fields", "curves", "decomposition") for e in ("png", "svg")),
}


@pytest.fixture
def convbias_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command in this process: (exit status, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["convbias", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


def test_a_study_prints_a_table_and_writes_results_and_figure(convbias_command, tmp_path: Path) -> None:
    status, out, err = convbias_command("study", *QUICK, "--out", tmp_path / "new")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["tying", "parameters", "error", "in", "%", "minus", "tied,", "paired", "p", "(Holm)"]
    assert [line[0] for line in lines[1:3]] == ["tied", "untied"]
    assert lines[2].count("±") == 2
    assert "1797 samples" in err
    assert "1797" not in out
    assert {file.name for file in (tmp_path / "new").iterdir() if file.is_file()} == WRITTEN
    report = json.loads((tmp_path / "new" / "results.json").read_text())
    assert [row["label"] for row in report["rows"]] == ["tied", "untied", "tied, width 18"]
    assert f"{report['rows'][1]['error']['mean']:.3f}" == lines[2][2]


def test_one_seed_gets_no_recommendation(convbias_command, tmp_path: Path) -> None:
    _, out, _ = convbias_command("study", *QUICK, "--seeds", 1, "--out", tmp_path)
    assert "One seed has no interval" in out
    assert "Take" not in out
    assert "±" not in out
    assert json.loads((tmp_path / "results.json").read_text())["recommendation"] is None


def test_json_goes_to_stdout_alone(convbias_command, tmp_path: Path) -> None:
    status, out, _ = convbias_command("study", *QUICK, "--json", "--out", tmp_path)
    assert status == 0
    assert json.loads(out) == json.loads((tmp_path / "results.json").read_text())


def test_a_forecast(convbias_command, tmp_path: Path) -> None:
    np.savez(tmp_path / "field.npz", t=np.random.default_rng(0).normal(size=(200, 6, 7)))
    arguments = ["--data", tmp_path / "field.npz", "--task", "forecast", "--lead", 3]
    status, out, _ = convbias_command("study", *arguments, *QUICK, "--out", tmp_path / "run")
    assert status == 0
    assert "RMSE" in out
    assert "For comparison, persistence: 1." in out


NET = """
import torch

def make(channels=1):
    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, 3, 3), torch.nn.ReLU(), torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(),
        torch.nn.Linear(32, 10),
    )

def fails():
    raise RuntimeError("no luck")

def text():
    return "net"

def colourful():
    return make(3)
"""


def test_a_network_of_ones_own_and_chosen_layers(
    convbias_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    status, out, err = convbias_command("study", *QUICK, "--model", "my_nets:make", "--where", "2", "--json")
    assert status == 0, err
    tied = 3 * 9 + 3 + 2 * 27 + 2 + 330
    rows = {row["tying"]: row["parameters"] for row in json.loads(out)["rows"]}
    assert rows == {"tied": tied, "untied": tied + 2 * 16 - 2}
    for spec, said in {
        "my_nets": "model=my_nets: must be one of small, unet, resnet, go, dilated, or module:factory",
        "nowhere:make": "model=nowhere:make: importing nowhere failed, ModuleNotFoundError",
        "my_nets:other": "model=my_nets:other: my_nets has no function other; it has make, fails",
        "my_nets:fails": "model=my_nets:fails: the factory failed, RuntimeError: no luck",
        "my_nets:text": "model=my_nets:text: must return a torch.nn.Module, not str",
        "my_nets:colourful": "model=Sequential: does not take the data (1, 1, 8, 8)",
    }.items():
        status, out, err = convbias_command("study", "--model", spec, "--out", tmp_path / "new")
        assert (status, out) == (2, "")
        assert said in err
        assert not (tmp_path / "new").exists()
    status, _, err = convbias_command("study", "--where", "nothing", "--out", tmp_path / "new")
    assert status == 2
    assert "chooses none of the model's convolutions, which are ['0', '3']" in err


def _bad_npz(folder: Path) -> Path:
    images = np.ones((20, 5, 5))
    images[3, 0, 0] = np.nan
    np.savez(folder / "nan.npz", images=images, labels=np.arange(20) % 2)
    return folder / "nan.npz"


def _cut_idx(folder: Path) -> Path:
    (folder / "cut-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 9]))
    return folder / "cut-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tying", "h c"], "error: tying 'h c': axes go in the order 'c h w', each once; write 'c h'"),
        (["--tying", "c l"], "tying 'c l', at 'l': a 2D bias has the axes 'c h w'"),
        (["--data", _bad_npz], "error: nan.npz: 1 of 500 values are NaN or infinite, the first at index"),
        (["--data", _cut_idx], "error: cut-images-idx3-ubyte: is damaged or cut short"),
        (["--data", "nowhere.npz"], "nowhere.npz: no such file"),
        (["--task", "forecast"], "error: task: forecast: needs data with a field (time, h, w) and a lead"),
        (["--lead", "3"], "error: lead: 3: only a forecast has one; the task is classify"),
        (["--seeds", "0"], "Invalid value for '--seeds'"),
        (["--epochs", "0"], "Invalid value for '--epochs'"),
        (["--task", "sing"], "Invalid value for '--task'"),
        (["--nothing"], "No such option"),
        (["--where", "["], "error: layer '[': where is no regular expression: unterminated"),
    ],
)
def test_bad_input_is_one_message_status_2_and_nothing_written(
    convbias_command, tmp_path: Path, arguments: list, said: str
) -> None:
    given = [a(tmp_path) if callable(a) else a for a in arguments]
    status, out, err = convbias_command("study", "--epochs", 1, *given, "--out", tmp_path / "new")
    assert (status, out) == (2, "")
    assert said in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_found_before_training(convbias_command, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    for out_folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        status, _, err = convbias_command("study", "--out", out_folder)
        assert status == 2
        assert f"error: {out_folder}: " in err
        assert "choose another folder" in err
    assert (tmp_path / "taken").read_text() == "mine"


def without_times(report: str) -> dict[str, object]:
    return {name: value for name, value in json.loads(report).items() if name != "costs"}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupted_study_is_resumed_to_the_same_results(
    convbias_command, tmp_path: Path, jobs: str
) -> None:
    asked = ["--seeds", "3", "--epochs", "3", "--tying", "untied", "--jobs", jobs]
    command = [sys.executable, "-m", "convbias", "study", "--out", str(tmp_path / "run"), *asked]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 120
    while not list(tmp_path.glob("run/trials/seed*.trial")) and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    finished = len(list(tmp_path.glob("run/trials/seed*.trial")))
    assert 1 <= finished < 6
    told = f"stopped with {finished} finished trial{'s' * (finished > 1)}"
    assert f"{told}; convbias study --resume {tmp_path / 'run'} goes on" in err
    assert not (tmp_path / "run" / "results.json").exists()

    status, out, err = convbias_command("study", "--resume", tmp_path / "run", "--json")
    assert status == 0, err
    status, undisturbed, _ = convbias_command("study", *asked, "--json", "--out", tmp_path / "other")
    assert without_times(out) == without_times(undisturbed)
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == json.loads(out)


@pytest.mark.parametrize("most_bytes", [6_000, 30_000])
def test_a_disk_that_is_full_is_said_and_what_is_finished_is_kept(tmp_path: Path, most_bytes: int) -> None:
    """No trial can be written, and then no figure: a limit on a file's size stands for the disk's."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, {most_bytes}))\n"
        "from convbias.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "study", *QUICK, "--out", str(tmp_path / "run")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "cannot be written (File too large); free space or choose another place" in ran.stderr
    finished = len(list(tmp_path.glob("run/trials/seed*.trial")))
    assert finished == (0 if most_bytes < 10_000 else 6)
    assert f"stopped with {finished} finished trials" in ran.stderr or finished == 0
    assert "Traceback" not in ran.stderr
    assert not list(tmp_path.rglob(".*"))
    # The numbers come before the figures, which are larger.
    assert (tmp_path / "run" / "results.json").exists() == (finished == 6)
    assert (tmp_path / "run" / "trials.csv").exists() == (finished == 6)


def test_a_disk_that_is_full_from_the_start_is_left_as_it_was(tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))\n"
        "from convbias.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "study", *QUICK, "--out", str(tmp_path / "run")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "request.json: cannot be written (File too large)" in ran.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_of_ones_own_is_not_written_into(convbias_command, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("mine")
    status, out, err = convbias_command("study", *QUICK, "--out", tmp_path)
    assert (status, out) == (2, "")
    assert "holds other files; choose a new folder, or an empty one" in err
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("results.json", "mine")]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("ReLU()", "Tanh()", False),
        ("3, 2, 3)", "3, 2, 3, bias=False)", False),
        ("import torch", "import torch  # again", True),
    ],
)
def test_a_study_goes_on_with_the_networks_that_it_began_with(
    convbias_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, same: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "changing.py").write_text(NET)
    assert convbias_command("study", *QUICK, "--model", "changing:make", "--out", "run")[0] == 0
    (tmp_path / "changing.py").write_text(NET.replace(old, new))
    del sys.modules["changing"]
    status, _, err = convbias_command("study", "--resume", "run")
    del sys.modules["changing"]
    assert status == (0 if same else 2)
    assert ("holds another study (other networks); choose another folder" in err) != same


def test_a_folder_is_one_processs_at_a_time(convbias_command, tmp_path: Path) -> None:
    assert convbias_command("study", *QUICK, "--out", tmp_path / "run")[0] == 0
    code = (
        "import sys; from pathlib import Path; from convbias.study.runs import Run\n"
        "run = Run(Path(sys.argv[1]), Run.request_in(Path(sys.argv[1])))\n"
        "with run.alone(): print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"in\n"
    status, _, err = convbias_command("study", "--resume", tmp_path / "run")
    assert status == 2
    assert "another process is at work in it; wait for it, or choose another folder" in err
    other.kill()
    other.communicate()
    assert convbias_command("study", "--resume", tmp_path / "run")[0] == 0


@pytest.mark.parametrize(("rank", "waits"), [("0", 0), ("1", 1)])
def test_what_is_wrong_for_all_of_torchruns_ranks_is_said_by_the_first(
    convbias_command, monkeypatch: pytest.MonkeyPatch, rank: str, waits: int
) -> None:
    """The others wait to be ended, and speak if they are not."""
    waited: list[float] = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(time, "sleep", waited.append)
    status, _, err = convbias_command("study", "--data", "nowhere.npz")
    assert (status, len(waited)) == (2, waits)
    assert err == "error: nowhere.npz: no such file\n"


def test_what_cannot_be_resumed_or_replaced(convbias_command, tmp_path: Path) -> None:
    assert convbias_command("study", *QUICK, "--out", tmp_path / "run")[0] == 0
    before = {f: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file()}
    for arguments, said in (
        (
            ["--out", tmp_path / "run"],
            "holds a study already; --resume goes on with it, or choose another folder",
        ),
        (["--resume", tmp_path / "none"], "none: holds no study to resume"),
        (
            ["--resume", tmp_path / "run", "--seeds", "9"],
            "the folder knows the options; leave --seeds out",
        ),
    ):
        status, out, err = convbias_command("study", *arguments)
        assert (status, out) == (2, "")
        assert said in err
    assert before == {f: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file()}


def test_the_default_folder_is_always_a_new_one(
    convbias_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert convbias_command("study", *QUICK)[0] == 0
    assert sorted(f.name for f in tmp_path.iterdir()) == ["convbias-study", "convbias-study-2"]


def test_help_shows_an_example_and_the_version_is_the_packages(convbias_command) -> None:
    status, out, _ = convbias_command("study", "--help")
    assert status == 0
    assert "convbias study --data t10k-images-idx3-ubyte.gz --tying none --tying untied" in out
    assert convbias_command("--version")[:2] == (0, f"convbias {convbias.__version__}\n")
    assert "Example: convbias study" in convbias_command("--help")[1]


def test_people_see_how_far_it_is(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "convbias", "study", *QUICK, "--epochs", "3", "--out", str(tmp_path)]
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert process.wait() == 0
    told = shown.decode()
    assert "of 6 networks; " in told
    assert "/18 epochs," in told
    assert "left" in told


def test_no_color_is_respected(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "1"}
    command = [sys.executable, "-m", "convbias", "study", *QUICK, "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "\x1b[3" not in ran.stdout + ran.stderr


def test_a_narrow_terminal_cuts_nothing_off(tmp_path: Path) -> None:
    environment = {**os.environ, "COLUMNS": "40"}
    command = [sys.executable, "-m", "convbias", "study", *QUICK, "--seeds", "2", "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "parameters" in ran.stdout
    assert "…" not in ran.stdout.replace(" … ", "")


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("typer", "error: typer is not installed; pip install 'convbias[study]' brings it"),
        ("scipy", "error: scipy is not installed; pip install 'convbias[study]' brings it"),
        ("matplotlib", "error: matplotlib is not installed; pip install 'convbias["),
    ],
)
def test_a_missing_extra_names_the_command_that_installs_it(package: str, said: str) -> None:
    # None in sys.modules is how Python remembers that a module cannot be imported.
    code = f"import sys; sys.modules['{package}'] = None; from convbias.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(said)


@pytest.mark.parametrize("words", [["--version"], ["doctor"]])
def test_a_reader_who_has_read_enough_is_no_error(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "convbias", *words]
    # Its output waits in a buffer, as it does for most people.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=variables)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (1, "")


def test_ctrl_c_while_modules_are_read_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "convbias.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "convbias.cli.app", raising=False)
    monkeypatch.delattr(cli, "app", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Stopped(), *sys.meta_path])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 130
