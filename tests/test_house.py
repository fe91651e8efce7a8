"""The house stands: no import runs back up, the core needs torch alone, no file is several rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mutants
import mutants_native

HOUSE = Path(__file__).resolve().parents[1] / "src" / "convbias"

# From the ground up. A room may use the floors below its own and, on its own floor, the rooms before it.
FLOORS = {
    "ground": ["errors", "outputs", "geometry", "tying"],
    "first": ["affine", "ops"],
    "second": ["functional", "nn", "verifying", "folding"],
    "names": ["__init__"],
    "top": ["plots", "study", "explaining", "cli", "__main__"],
}
HEIGHT = {room: height for height, room in enumerate(room for floor in FLOORS.values() for room in floor)}
CORE = {"errors", "geometry", "tying", "affine"}
NOT_WITH_CONVBIAS = [
    *("matplotlib", "sklearn", "scipy", "typer", "rich", "onnx", "onnxscript", "onnxruntime"),
    *("xarray", "zarr", "netCDF4", "PIL", "torch._dynamo"),
]
MOST_LINES = 400


def imports(file: Path, house: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything the file imports, wherever in the file it does."""
    package = ["convbias", *file.relative_to(house).with_suffix("").parts][:-1]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = [*above, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield node.lineno, ".".join([*source, alias.name])


def room_of(path: Path, house: Path) -> str:
    return path.relative_to(house).with_suffix("").parts[0]


def rooms(house: Path) -> set[str]:
    return {room_of(path, house) for path in house.iterdir() if path.suffix == ".py" or path.is_dir()}


def room_named(name: str, house: Path) -> str:
    """The room that ``convbias.…`` leads to: a public name leads to ``__init__``."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in rooms(house) else "__init__"


def faults(house: Path) -> list[str]:
    """Everything in the house that breaks its rules, one sentence each."""
    found: list[str] = []
    for file in sorted(house.rglob("*.py")):
        room, here = room_of(file, house), file.relative_to(house)
        if room not in HEIGHT:
            found.append(f"{here}: room {room!r} stands on no floor; give it a place in FLOORS")
            continue
        lines = len(file.read_text("utf-8").splitlines())
        if lines > MOST_LINES:
            found.append(f"{here}: {lines} lines, more than {MOST_LINES}; is it one room or several?")
        for line, name in imports(file, house):
            top = name.split(".")[0]
            if top == "convbias":
                used = room_named(name, house)
                if used != room and HEIGHT.get(used, len(HEIGHT)) > HEIGHT[room]:
                    found.append(f"{here}:{line}: {room} imports {name}; {used} stands above it")
            elif room in CORE and top != "torch" and top not in sys.stdlib_module_names:
                found.append(f"{here}:{line}: {room} imports {name}; the core has torch alone")
    return found


def test_the_house_stands() -> None:
    assert faults(HOUSE) == []


def test_the_floors_are_not_empty() -> None:
    assert {"errors", "geometry", "tying", "ops", "functional", "nn"} <= rooms(HOUSE)


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("geometry.py", "from .tying import parse", "tying stands above"),
        ("geometry.py", "from . import tying", "tying stands above"),
        ("geometry.py", "import convbias.tying", "tying stands above"),
        ("geometry.py", "from convbias import parse", "__init__ stands above"),
        ("geometry.py", "import convbias", "__init__ stands above"),
        ("tying/kinds.py", "def f():\n    from ..functional import conv2d", "functional stands above"),
        ("tying/kinds.py", "from ..nn.conv import Conv2d", "nn stands above"),
        ("ops/route.py", "from .. import functional", "functional stands above"),
        ("__init__.py", "from .study import run", "study stands above"),
        ("study/run.py", "from ..cli import main", "cli stands above"),
        ("tying/kinds.py", "import numpy as np", "the core has torch alone"),
        ("geometry.py", "from scipy.linalg import pinv", "the core has torch alone"),
        ("attic.py", "", "stands on no floor"),
        ("nn/conv.py", "\n" * 401, "401 lines"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, file: str, source: str, fault: str) -> None:
    house = tmp_path / "convbias"
    for name in ["tying", "ops", "nn", "study"]:
        (house / name).mkdir(parents=True)
    for name in ["errors", "geometry", "functional", "cli", "__init__"]:
        (house / f"{name}.py").touch()
    assert faults(house) == []
    (house / file).write_text(source, "utf-8")
    assert [fault in found for found in faults(house)] == [True]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("tying/kinds.py", "from ..errors import TyingError\nfrom .parse import parse"),
        ("tying/__init__.py", "import math\nfrom torch import Tensor\nfrom .kinds import Tied"),
        ("nn/conv.py", "from .. import functional\nfrom ..ops import route\nimport numpy"),
        ("study/run.py", "import convbias\nfrom convbias import Conv2d\nimport sklearn"),
        ("cli.py", "from .study import run"),
    ],
)
def test_a_sound_import_is_left_alone(tmp_path: Path, file: str, source: str) -> None:
    house = tmp_path / "convbias"
    for name in ["tying", "ops", "nn", "study"]:
        (house / name).mkdir(parents=True)
    for name in ["errors", "functional"]:
        (house / f"{name}.py").touch()
    (house / file).write_text(source, "utf-8")
    assert faults(house) == []


def test_importing_convbias_leaves_the_heavy_packages_out() -> None:
    code = f"import sys, convbias; print(*[m for m in {NOT_WITH_CONVBIAS} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.split()) == (0, []), ran.stderr


@pytest.mark.parametrize(
    ("broken", "folder"),
    [(mutants.MUTANTS, HOUSE), (mutants_native.MUTANTS, HOUSE.parents[1] / "native")],
    ids=["python", "native"],
)
def test_every_line_that_the_mutants_break_is_there(broken: list[tuple[str, str, str]], folder: Path) -> None:
    assert [(file, line) for file, line, _ in broken if line not in (folder / file).read_text("utf-8")] == []
