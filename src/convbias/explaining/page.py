"""The page on which every number of a convolution can be followed: one file that needs no network."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import extra
from ..outputs import write_whole

with extra("study"):
    from sklearn.datasets import load_digits

# In the order in which they need each other: a later one may import from an earlier one.
SCRIPTS = ("arithmetic", "state", "words", "colours", "plots", "grids", "formula", "ways", "main")
BRIGHTEST = 16  # of scikit-learn's digits


def page() -> str:
    """The page, as HTML.

    >>> "Where does the bias go?" in page()
    True
    """
    parts = {"style": _asset("style.css").strip(), "script": _script()}
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: parts[found[1]], _asset("page.html"))


def write(path: str | Path) -> None:
    """Write the page to ``path``, whole or not at all."""
    write_whole(Path(path), lambda unfinished: unfinished.write_text(page(), "utf-8"))


def _script() -> str:
    """The modules as one, which a page can hold without a server: what they import is above them."""
    modules = (_asset(f"{name}.js") for name in SCRIPTS)
    joined = "\n".join(re.sub(r"^(import .*\n|export )", "", text, flags=re.MULTILINE) for text in modules)
    return f"const DIGITS = {json.dumps(_digits(), separators=(',', ':'))};\n{joined}"


def _digits() -> dict[str, list[list[float]]]:
    """The first of each of scikit-learn's digits, 8 by 8, from 0 to 1."""
    data: Any = load_digits()
    return {
        f"digit {digit}": (data.images[data.target.tolist().index(digit)] / BRIGHTEST).tolist()
        for digit in range(10)
    }


def _asset(name: str) -> str:
    return (resources.files("convbias.explaining") / "assets" / name).read_text("utf-8")
