"""Exported programs (.pt2) from files that nobody vouches for: checked first, so that nothing in them runs.

``torch.export.load`` evaluates symbolic expressions, resolves operators by any name under ``torch``, and
falls back to pickle. Here the archive may hold known entries only, tensors only, operators of torch's and of
convbias's alone, and expressions of a small grammar; then a new archive is made of what was checked.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast

import torch
from torch.export import ExportedProgram

from ..errors import DataError

ENTRIES: Final = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder"
    r"|\.data/version|\.data/serialization_id"
)
# Operators: tensors' (but for the one that reads files), those on sizes, and the taking out of a result.
TARGETS: Final = re.compile(
    r"torch\.ops\.(aten\.(?!from_file\b)\w+\.\w+|convbias\.convolution\.default)"
    r"|torch\.(sym_\w+|_check\w*)|math\.(ceil|floor|trunc|sqrt)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge)"
)
WORDS: Final = frozenset(
    [
        "Add",
        "Mul",
        "Pow",
        "Integer",
        "Rational",
        "FloorDiv",
        "ModularIndexing",
        "Where",
        "PythonMod",
        "Mod",
        "CleanDiv",
        "CeilToInt",
        "FloorToInt",
        "CeilDiv",
        "PowByNatural",
        "IntTrueDiv",
        "FloatTrueDiv",
        "TruncToInt",
        "RoundToInt",
        "ToFloat",
        "Max",
        "Min",
        "Abs",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "Equality",
        "Unequality",
        "StrictLessThan",
        "LessThan",
        "StrictGreaterThan",
        "GreaterThan",
        "And",
        "Or",
        "Not",
        "Identity",
    ]
)
SYMBOL: Final = re.compile(r"z?[suf]+\d+")
QUOTED: Final = re.compile(r"Symbol\('(z?[suf]+\d+)'(?:, \w+=True)*\)")
EXPRESSION: Final = re.compile(r"(?:[A-Za-z]\w*|\d{1,18}|\*\*|//|[-+*/(), <>=!&|~])*")
LONGEST: Final = 2000
# A power of larger numbers may take for ever.
LARGEST_IN_POWER: Final = 64


def load_program(path: str | Path) -> ExportedProgram:
    """The exported program in a ``.pt2`` file of ``torch.export.save``, without running anything in it.

    Raises DataError for a file that is none, is damaged, or holds more than tensors and torch's operators.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})") from error
    try:
        entries = _entries(path, content)
        _check(path, entries)
        return torch.export.load(_archive(entries))
    except DataError:
        raise
    except Exception as error:  # torch's readers raise errors of every kind
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            path, f"is no exported program that torch {torch.__version__} reads: {told[0]}"
        ) from error


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
    if entries.get("data/sample_inputs/model.pt"):
        _only_tensors(path, "data/sample_inputs/model.pt", entries)
    program = json.loads(entries["models/model.json"])
    for target in _values(program, "target"):
        if not isinstance(target, str) or TARGETS.fullmatch(target) is None:
            raise DataError(
                path, f"calls {target!r}, which is no operator on tensors of torch's or convbias's"
            )
    for expression in _values(program, "expr_str"):
        if not _harmless(expression):
            raise DataError(path, f"has the size {str(expression)[:100]!r}, which is no plain expression")
    for symbol in program.get("range_constraints") or {}:
        if SYMBOL.fullmatch(symbol) is None:
            raise DataError(path, f"has a size named {symbol[:100]!r}, which is no plain symbol")
    program["guards_code"] = []
    entries["models/model.json"] = json.dumps(program).encode()


def _only_tensors(path: str | Path, entry: str, entries: dict[str, bytes]) -> None:
    try:
        torch.load(io.BytesIO(entries[entry]), weights_only=True)
    except Exception as error:
        raise DataError(path, f"{entry} holds more than tensors, which would have to be executed") from error


def _values(part: object, key: str) -> Iterator[object]:
    """Whatever stands at ``key`` anywhere in ``part``, where it is no container."""
    if isinstance(part, dict):
        for name, value in cast(dict[str, Any], part).items():
            if name == key and not isinstance(value, (dict, list)):
                yield value
            yield from _values(value, key)
    elif isinstance(part, list):
        for value in cast(list[Any], part):
            yield from _values(value, key)


def _harmless(expression: object) -> bool:
    """Whether an expression is made of symbols, numbers, known functions and arithmetic alone.

    >>> _harmless("2*s77 + Mod(s27, 2)"), _harmless("__import__('os')"), _harmless("9**9**9")
    (True, False, False)
    """
    if not isinstance(expression, str) or len(expression) > LONGEST:
        return False
    plain = QUOTED.sub(r"\1", expression)
    names = re.findall(r"[A-Za-z_]\w*", plain)
    powers = plain.count("**") + sum(name.startswith("Pow") for name in names)
    numbers = [int(number) for number in re.findall(r"\b\d{1,18}\b", plain)]
    return (
        EXPRESSION.fullmatch(plain) is not None
        and all(name in WORDS or SYMBOL.fullmatch(name) for name in names)
        and (powers == 0 or (powers == 1 and max(numbers, default=0) <= LARGEST_IN_POWER))
    )


def _archive(entries: dict[str, bytes]) -> io.BytesIO:
    """A new archive of ``entries``: two readers may see different ones in the same bytes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(str(PurePosixPath("model") / name), content)
    made.seek(0)
    return made
