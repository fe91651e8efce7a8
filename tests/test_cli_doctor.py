"""``convbias doctor``: what runs here, told right."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch

from convbias.ops import native


def doctor(*words: str, **environment: str) -> str:
    command = [sys.executable, "-m", "convbias", "doctor", *words]
    ran = subprocess.run(
        command,
        env={**os.environ, "COLUMNS": "300", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_it_tells_which_kernels_run() -> None:
    told = json.loads(doctor("--json"))
    assert told["torch"].startswith(torch.__version__)
    if native.absence() is None:
        assert told["own kernels"].startswith(native.instructions())
    else:
        assert told["own kernels"].startswith("none")


def test_it_tells_why_there_are_none() -> None:
    told = doctor(CONVBIAS_LIBRARY="/nowhere/lib.so", CONVBIAS_BACKEND="aten")
    assert "none, torch's run: /nowhere/lib.so cannot be loaded" in told
    assert "aten (CONVBIAS_BACKEND is aten)" in told


def test_it_tells_of_a_backend_that_there_is_not() -> None:
    told = json.loads(doctor("--json", CONVBIAS_BACKEND="fast"))
    assert told["backend"] == "none: CONVBIAS_BACKEND='fast': must be one of auto, aten, native"
    assert told["own kernels"]
