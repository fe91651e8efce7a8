"""Exported programs (.pt2) from files that nobody vouches for: checked first, so that nothing in them runs.

``torch.export.load`` evaluates symbolic expressions, resolves operators by any name under ``torch``, and
falls back to pickle. Here the archive may hold known entries only, tensors only, operators of torch's and of
convbias's alone, and plain names and expressions; then a new archive is made of what was checked.
"""

from __future__ import annotations

import io
import json
import logging
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Final, final

import torch
from torch.export import ExportedProgram

from ..errors import DataError
from .contents import Suspicious, checked
from .programs import is_plain

# What the program was exported with.
EXAMPLE: Final = "data/sample_inputs/model.pt"
ENTRIES: Final = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    rf"|models/model\.json|{re.escape(EXAMPLE)}|archive_format|archive_version|byteorder"
    r"|\.data/version|\.data/serialization_id"
)


def load_program(path: str | Path) -> ExportedProgram:
    """The exported program in a ``.pt2`` file of ``torch.export.save``, without running anything in it.

    Raises DataError for a file that is none, is damaged, or holds more than tensors and torch's operators.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})") from error
    logger, told = logging.getLogger("torch.export"), Told()
    logger.addFilter(told)
    try:
        entries = _entries(path, content)
        _check(path, entries)
        return torch.export.load(_archive(entries))
    except DataError:
        raise
    except Exception as error:  # torch's readers raise errors of every kind
        reason = told.error or error
        said = " ".join([f"{type(reason).__name__}:", *str(reason).strip().splitlines()[:1]])
        raise DataError(
            path, f"is no exported program that torch {torch.__version__} reads: {said}"
        ) from error
    finally:
        logger.removeFilter(told)


@final
class Told(logging.Filter):
    """Keeps the error that torch logs, with its traceback, before it raises one that says nothing."""

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        self.error = record.exc_info[1] if record.exc_info else self.error
        return False


def _entries(path: str | Path, content: bytes) -> dict[str, bytes]:
    """The archive's entries, by their names without its own."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise DataError(path, "is no .pt2 file: it is no zip archive, or a part of one")
    found: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for info in archive.infolist():
            _, _, name = info.filename.partition("/")
            if ENTRIES.fullmatch(name) is None:
                raise DataError(
                    path, f"holds {info.filename!r}, which is no part of a plain exported program"
                )
            if name in found or info.compress_type != zipfile.ZIP_STORED or info.file_size > len(content):
                raise DataError(
                    path, f"holds {info.filename!r} twice or compressed, as torch never writes it"
                )
            found[name] = archive.read(info)
    if "models/model.json" not in found:
        raise DataError(path, "holds no models/model.json: it is of another kind, or of an older torch")
    return found


def _check(path: str | Path, entries: dict[str, bytes]) -> None:
    """Raise DataError for anything but tensors, known operators and expressions."""
    for folder, kind in (("weights", "weight"), ("constants", "tensor")):
        config = json.loads(entries.get(f"data/{folder}/model_{folder}_config.json", b'{"config": {}}'))
        for name, payload in config["config"].items():
            file = payload["path_name"]
            if re.fullmatch(rf"{kind}_\d+", file) is None or f"data/{folder}/{file}" not in entries:
                raise DataError(path, f"{name!r} refers to {file!r}, which is no tensor in it")
            if payload["use_pickle"]:
                _only_tensors(path, f"data/{folder}/{file}", entries)
    if entries.get(EXAMPLE) and not is_plain(_only_tensors(path, EXAMPLE, entries)):
        entries[EXAMPLE] = b""
    try:
        program = checked(json.loads(entries["models/model.json"]))
    except Suspicious as found:
        raise DataError(path, str(found)) from found
    entries["models/model.json"] = json.dumps(program).encode()


def _only_tensors(path: str | Path, entry: str, entries: dict[str, bytes]) -> Any:
    try:
        return torch.load(io.BytesIO(entries[entry]), weights_only=True)
    except Exception as error:
        raise DataError(path, f"{entry} holds more than tensors, which would have to be executed") from error


def _archive(entries: dict[str, bytes]) -> io.BytesIO:
    """A new archive of ``entries``: two readers may see different ones in the same bytes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(str(PurePosixPath("model") / name), content)
    made.seek(0)
    return made
