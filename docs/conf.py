"""How Sphinx builds the documentation: make docs"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import convbias
from convbias.explaining import write

project = "convbias"
author = project_copyright = "the convbias authors"
version = release = convbias.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "convbias"
exclude_patterns = ["_build"]
# Links to headings, as they are written for who reads the files as they lie.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True


def setup(app: Any) -> None:
    """The page of ``convbias explain`` lies beside the others."""
    app.connect("build-finished", lambda app, failed: failed or write(Path(app.outdir) / "explain.html"))
