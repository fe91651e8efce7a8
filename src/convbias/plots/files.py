"""Figures as files."""

from __future__ import annotations

import io
from pathlib import Path

from ..errors import extra
from ..outputs import write_whole

with extra("plots"):
    from matplotlib.figure import Figure


def save(figure: Figure, path: str | Path) -> None:
    """Write ``figure`` to ``path``, whole or not at all; the ending gives the format."""
    write_whole(Path(path), lambda unfinished: figure.savefig(unfinished))


def svg(figure: Figure) -> str:
    """``figure`` as SVG."""
    file = io.StringIO()
    figure.savefig(file, format="svg")
    return file.getvalue()
