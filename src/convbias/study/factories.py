"""``module:factory``: networks and data that the user's own code makes."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.nn import Module


def load_model(spec: str) -> Callable[..., Module]:
    """The function ``factory`` of ``module``, looked for in the working directory as well.

    Raises ValueError for a spec that names no function; what is returned raises one where the function fails
    or makes no network. It takes ``width`` where the function does.

    >>> load_model("torch.nn:Identity")()
    Identity()
    """
    factory = _found("model", spec)

    # So that its signature, and with it a width, shows.
    @functools.wraps(factory)
    def make(*arguments: Any, **words: Any) -> Module:
        model = _call("model", spec, factory, *arguments, **words)
        if not isinstance(model, Module):
            raise ValueError(f"model={spec}: must return a torch.nn.Module, not {type(model).__name__}")
        return model

    return make


def called(what: str, spec: str) -> object:
    """What the function ``spec`` returns. Raises ValueError, beginning with ``what``, where it does not."""
    return _call(what, spec, _found(what, spec))


def _found(what: str, spec: str) -> Callable[..., object]:
    name, colon, attribute = spec.partition(":")
    if not (name and colon and attribute):
        raise ValueError(f"{what}={spec}: must be module:factory, as in nets:make for make() in nets.py")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{what}={spec}: importing {name} failed, {_told(error)}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        known = ", ".join(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise ValueError(f"{what}={spec}: {name} has no function {attribute}; it has {known or 'none'}")
    return factory


def _call(what: str, spec: str, factory: Callable[..., object], *arguments: Any, **words: Any) -> object:
    try:
        return factory(*arguments, **words)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{what}={spec}: the factory failed, {_told(error)}") from error


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
