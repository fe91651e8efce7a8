"""Figures as files, and in notebooks."""

from __future__ import annotations

import io
from pathlib import Path

from ..errors import OutputError, extra
from ..outputs import write_whole

with extra("plots"):
    from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that a notebook shows by itself, without ``%matplotlib inline``."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def save(figure: Figure, path: str | Path) -> None:
    """Write ``figure`` to ``path``, whole or not at all; the ending gives the format.

    Raises OutputError for an ending that matplotlib has no format for, and where nothing can be written.
    """
    path, formats = Path(path), figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise OutputError(path, f"must end in a format, such as .png or .svg; there are {', '.join(formats)}")
    write_whole(path, lambda unfinished: figure.savefig(unfinished))


def svg(figure: Figure) -> str:
    """``figure`` as SVG."""
    file = io.StringIO()
    figure.savefig(file, format="svg")
    return file.getvalue()
