"""``convbias doctor``: what runs here, and why not more."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import torch

from .. import __version__
from ..errors import extra
from ..ops import choice, convolve, native

with extra("study"):
    import typer
    from rich.console import Console
    from rich.table import Table

EXAMPLES = """Examples:

convbias doctor

convbias doctor --json

Exit status: 0, whatever is found: everything works without what is missing, some of it more slowly.
"""
EXTRAS = {"study": "typer", "plots": "matplotlib", "onnx": "onnxruntime"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """What runs here, and why not more.

    Tells whether convbias's own kernels are there and which instruction set
    they use, whether torch's private oneDNN operators can be used, in how
    many threads, by which allocator, and which extras are installed.
    """
    found = findings()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in found.items():
        table.add_row(name, value)
    Console().print(table, markup=False)


def findings() -> dict[str, str]:
    """Each thing by its name, in words."""
    return {
        "convbias": __version__,
        "torch": f"{torch.__version__}, CPU capability {torch.backends.cpu.get_cpu_capability()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "own kernels": _own_kernels(),
        "oneDNN": _or_fine(convolve.missing(), "its operators are used directly where that is faster"),
        "backend": _backend(),
        "threads": f"{torch.get_num_threads()} (torch.set_num_threads changes it), {_openmp()}",
        "allocator": _allocator(),
        "extras": ", ".join(f"{name}: {_installed(package)}" for name, package in EXTRAS.items()),
    }


def _backend() -> str:
    try:
        chosen = choice.chosen()
    except ValueError as error:  # every convolution says so too
        return f"none: {error}"
    return f"{chosen} ({choice.VARIABLE} is {os.environ.get(choice.VARIABLE) or 'not set'})"


def _own_kernels() -> str:
    reason = native.absence()
    if reason is not None:
        return f"none, torch's run: {reason}"
    known = ", ".join(native.known_instructions())
    return f"{native.instructions()} (of {known})"


def _or_fine(reason: str | None, fine: str) -> str:
    return fine if reason is None else f"not used: {reason}"


def _openmp() -> str:
    """The OpenMP library that torch and the own kernels share; other packages bring theirs in ….libs."""
    paths = [path for path in _mapped() if "libgomp" in path or "libiomp" in path or "libomp" in path]
    loaded = sorted({Path(path).name for path in paths if ".libs/" not in path})
    return f"OpenMP by {' and '.join(loaded)}" if loaded else "OpenMP by torch"


def _allocator() -> str:
    known = [name for name in ("jemalloc", "tcmalloc", "mimalloc") if any(name in path for path in _mapped())]
    if known:
        return known[0]
    pages = "huge pages on" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else "huge pages off"
    return (
        f"{platform.libc_ver()[0] or 'the system'}'s malloc, {pages}: outputs over 32 MB are mapped anew at "
        "every call, unless out= gives them a place (or THP_MEM_ALLOC_ENABLE=1, or another allocator)"
    )


def _mapped() -> list[str]:
    """The files mapped into this process, where the system tells."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    return [line.split()[-1] for line in lines if "/" in line]


def _installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return "not installed"
