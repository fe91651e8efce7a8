"""What convbias raises: ValueErrors that give the name, the value, the rule and the fix."""

from collections.abc import Generator
from contextlib import contextmanager


class TyingError(ValueError):
    """A tying that cannot be read, or that cannot be had here.

    ``spelling`` is the tying as it was given, ``part`` the piece of it that is wrong.
    """

    def __init__(self, spelling: object, part: object, rule: str) -> None:
        self.spelling = spelling
        self.part = part
        self.rule = rule
        where = "" if part == spelling else f", at {part!r}"
        super().__init__(f"tying {spelling!r}{where}: {rule}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.spelling, self.part, self.rule)


class ShapeError(ValueError, RuntimeError):
    """A size that does not fit. ``name`` and ``value`` say which.

    It is a RuntimeError as well, for torch.nn raises that for shapes and callers catch it.
    """

    def __init__(self, name: str, value: object, rule: str) -> None:
        self.name = name
        self.value = value
        self.rule = rule
        super().__init__(f"{name}={value}: {rule}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.name, self.value, self.rule)


class SurgeryError(ValueError):
    """A layer that cannot be converted. ``layer`` is its name in the model."""

    def __init__(self, layer: str, rule: str) -> None:
        self.layer = layer
        self.rule = rule
        super().__init__(f"layer {layer!r}: {rule}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.layer, self.rule)


class DataError(ValueError):
    """Data that cannot be used. ``source`` is the file, or the argument's name."""

    def __init__(self, source: object, rule: str) -> None:
        self.source = str(source)
        self.rule = rule
        super().__init__(f"{source}: {rule}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.source, self.rule)


class OutputError(ValueError):
    """A file or folder that cannot be written. ``path`` says which."""

    def __init__(self, path: object, rule: str) -> None:
        self.path = str(path)
        self.rule = rule
        super().__init__(f"{path}: {rule}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.path, self.rule)


class MissingExtra(ImportError):
    """An optional package that is not installed. ``extra`` is the group of convbias's that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(f"{package} is not installed; pip install 'convbias[{extra}]' brings it")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.package, self.extra)


@contextmanager
def extra(name: str) -> Generator[None]:
    """Imports of optional packages: what is missing is said with the command that installs it.

    >>> with extra("onnx"):
    ...     import a_missing_one
    Traceback (most recent call last):
    convbias.errors.MissingExtra: a_missing_one is not installed; pip install 'convbias[onnx]' brings it
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "convbias"):
            raise
        raise MissingExtra(package, name) from error


class FoldRefused(ValueError):
    """A rewrite that would not be exact, or that nobody would want. ``law`` says which."""

    def __init__(self, law: str, reason: str) -> None:
        self.law = law
        self.reason = reason
        super().__init__(f"{law}: {reason}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.law, self.reason)
