"""A study's folder: what was asked, the finished trials, and the one under way."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from ..errors import OutputError
from ..outputs import writable_folder, write_whole
from .jobs import Job, Trial
from .saving import damaged, load, save

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

REQUEST, TRIALS = "request.json", "trials"


@final
class Run:
    """The folder of a study, in which a trial is kept as soon as it is finished.

    Raises OutputError where ``folder`` cannot be written, or holds another study than ``request``.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        known = self.request_in(folder)
        request = json.loads(json.dumps(request))
        if known is not None and known != request:
            changed = ", ".join(name for name in request if known.get(name) != request[name])
            raise OutputError(folder, f"holds another study (other {changed}); choose another folder")
        self._made = [path for path in (folder / TRIALS, folder / REQUEST, folder) if not path.exists()]
        try:
            self.folder = writable_folder(folder)
            writable_folder(folder / TRIALS)
            if known is None:
                text = json.dumps(request, indent=2, ensure_ascii=False)
                write_whole(folder / REQUEST, lambda file: file.write_text(text, "utf-8"))
        except OutputError:
            self._unmake()
            raise

    @staticmethod
    def request_in(folder: Path) -> dict[str, Any] | None:
        """What was asked of the study in ``folder``, or None where there is none."""
        try:
            return json.loads((folder / REQUEST).read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise OutputError(folder / REQUEST, f"cannot be read ({error}); choose another folder") from error

    def stop(self) -> int:
        """How many trials are finished; where none is even begun, what was made here is removed."""
        files = list((self.folder / TRIALS).iterdir())
        if not files:
            self._unmake()
        return sum(file.match("seed *.trial") for file in files)

    @contextmanager
    def alone(self) -> Generator[None]:
        """Keep other processes out of the folder, until this one leaves it or ends, however it does.

        Raises OutputError where another one is at work. Only where the system can lock a folder.
        """
        if fcntl is None:
            yield
            return
        lock = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(
                    self.folder, "another process is at work in it; wait for it, or choose another folder"
                ) from error
            yield
        finally:
            os.close(lock)

    def _unmake(self) -> None:
        for path in self._made:
            if path.exists():
                path.rmdir() if path.is_dir() else path.unlink()

    def finished(self, job: Job) -> Trial | None:
        """The trial, if it was finished before."""
        file = self._file(job, "trial")
        kept = load(file)
        if kept is None:
            return None
        try:
            numbers = {**kept["numbers"], "curve": tuple(kept["numbers"]["curve"])}
            return Trial(**numbers, fields=kept["fields"], tallies=kept["tallies"])
        except (KeyError, TypeError) as error:
            raise damaged(file, error) from error

    def keep(self, job: Job, trial: Trial) -> None:
        """Write the finished trial; its checkpoint has served."""
        content = {"numbers": trial.numbers, "fields": dict(trial.fields), "tallies": trial.tallies}
        save(content, self._file(job, "trial"))
        self.checkpoint(job).unlink(missing_ok=True)

    def checkpoint(self, job: Job) -> Path:
        """Where the trial under way is left from time to time."""
        return self._file(job, "checkpoint")

    def _file(self, job: Job, kind: str) -> Path:
        return self.folder / TRIALS / f"{job.name}.{kind}"
