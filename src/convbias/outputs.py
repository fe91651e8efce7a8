"""Files that are whole or not there at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import OutputError


def writable_folder(path: str | Path) -> Path:
    """The folder ``path``, made if need be, in which a file can be written.

    Raises OutputError where that is not so.

    >>> writable_folder("/dev/null/it")
    Traceback (most recent call last):
    convbias.errors.OutputError: /dev/null/it: cannot be written to (Not a directory); choose another folder
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        reason = "is a file" if folder.is_file() else f"cannot be written to ({error.strerror})"
        raise OutputError(path, f"{reason}; choose another folder") from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then give it that name: nobody ever sees half of it.

    Raises OutputError where the file cannot be written; what was there before stays.
    """
    path, unfinished = path.resolve(), None  # a link stays, and what it leads to is written
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(path, "is no ordinary file; choose another name")
    try:
        # The suffix stays, for writers that go by it.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(descriptor)
        unfinished = Path(name)
        write(unfinished)
        unfinished.chmod(0o666 & ~_umask())
        unfinished.replace(path)
    except OSError as error:
        full = "free space or " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        raise OutputError(
            path, f"cannot be written ({error.strerror}); {full}choose another place"
        ) from error
    finally:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)


def _umask() -> int:
    """The mask for new files, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
