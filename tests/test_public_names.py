"""The public names are those of public_names.txt; changing them is a decision, not an accident.

``python tests/test_public_names.py`` writes the file anew.
"""

from __future__ import annotations

import importlib
from pathlib import Path

LOCKED = Path(__file__).with_name("public_names.txt")
MODULES = ["convbias", "convbias.folding", "convbias.functional", "convbias.nn", "convbias.verifying"]


def public_names() -> list[str]:
    return sorted(f"{name}.{public}" for name in MODULES for public in importlib.import_module(name).__all__)


def test_the_public_names_are_the_locked_ones() -> None:
    locked, now = LOCKED.read_text("utf-8").split(), public_names()
    new, gone = sorted(set(now) - set(locked)), sorted(set(locked) - set(now))
    assert now == locked, (
        f"the public names changed: new {new}, gone {gone}. If that is meant, run "
        "`python tests/test_public_names.py`, and say it in CHANGELOG.md"
    )


def test_every_public_name_is_there() -> None:
    for name in public_names():
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


if __name__ == "__main__":
    LOCKED.write_text("\n".join(public_names()) + "\n", "utf-8")
    print(f"wrote {LOCKED.name}: {len(public_names())} names")
