"""Tensors and plain values in a file that is whole or not there."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ..errors import OutputError
from ..outputs import write_whole


def save(content: Mapping[str, Any], path: Path) -> None:
    """Write ``content``. Raises OutputError where that cannot be done."""
    # Through memory: torch's own writer calls a full disk an internal error.
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_whole(path, lambda file: file.write_bytes(buffer.getbuffer()))


def load(path: Path) -> dict[str, Any] | None:
    """What was saved, or None where nothing was. Raises OutputError for a damaged file."""
    try:
        return torch.load(path, weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> OutputError:
    """What to say of a file that does not hold what it should."""
    return OutputError(path, f"is damaged ({type(error).__name__}); delete it to train this one again")
