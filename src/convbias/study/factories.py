"""``module:factory``: networks that the user's own code makes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from torch.nn import Module


def load_model(spec: str) -> Callable[[], Module]:
    """The function ``factory`` of ``module``, looked for in the working directory as well.

    Raises ValueError for a spec that names no function; what is returned raises one where the function fails
    or makes no network.

    >>> load_model("torch.nn:Identity")()
    Identity()
    """
    name, colon, attribute = spec.partition(":")
    if not (name and colon and attribute):
        raise ValueError(f"model={spec}: must be module:factory, as in nets:make for make() in nets.py")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise ValueError(f"model={spec}: importing {name} failed, {_told(error)}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        known = ", ".join(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise ValueError(f"model={spec}: {name} has no function {attribute}; it has {known or 'none'}")

    def make() -> Module:
        try:
            model = factory()
        except Exception as error:
            raise ValueError(f"model={spec}: the factory failed, {_told(error)}") from error
        if not isinstance(model, Module):
            raise ValueError(f"model={spec}: must return a torch.nn.Module, not {type(model).__name__}")
        return model

    return make


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
