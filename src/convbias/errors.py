"""What convbias raises: ValueErrors that give the name, the value, the rule and the fix."""


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
