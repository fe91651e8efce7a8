"""What the programs in files that nobody vouches for may say: every string that torch would interpret.

``torch.export.load`` evaluates expressions for sizes, resolves operators and classes by name, and writes
names into Python code. So a string is a name, a path of names, an operator of a known kind, an expression of
a small grammar, or a structure of tuples, lists and dicts; whatever torch does not need is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, cast

from .expressions import SYMBOL, is_harmless

# Of tensors' operators those that read or write files, and that believe the numbers they are given: places in
# memory among them.
BELIEVING: Final = (
    r"from_file|save|\w*_backward\w*|\w*sparse\w*|_nested\w*|segment_reduce|_?ctc_loss"
    r"|fractional_max_pool\w*|_pack_padded_sequence|_unsafe_masked_index\w*"
)
# Operators: tensors', those on sizes, the taking out of a result, no_grad.
TARGETS: Final = re.compile(
    rf"torch\.ops\.(aten\.(?!({BELIEVING})\.)\w+\.\w+|convbias\.convolution\.default"
    r"|higher_order\.wrap_with_set_grad_enabled)"
    r"|torch\.(sym_\w+|_check\w*)|math\.(ceil|floor|trunc|sqrt)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge)"
)
OPERATORS: Final = ("target", "as_operator")
# Names of nodes and arguments, which become names in code.
NAMES: Final = ("name", "as_name", "forward_arg_names")
NAME: Final = re.compile(r"(?!\d)\w*")
# Strings that code holds as strings.
QUOTED: Final = ("as_string", "as_strings")
# A path of names of modules and parameters, or another short word.
PATH: Final = re.compile(r"[\w.\-+ :/@~#,]*")
# Structures of inputs and outputs, and what the names in their dicts are: of inputs, arguments in code.
SPECS: Final = {"in_spec": NAME, "out_spec": PATH}
# Of what is told about nodes, the modules in which they stand.
STACK: Final = "nn_module_stack"
STRUCTURES: Final = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


class Suspicious(ValueError):
    """What a program says that it should not."""


def checked(program: Any) -> Any:
    """``program``, the JSON of an exported program, without what is not needed.

    Raises Suspicious for a string that is of none of the known kinds.
    """
    for symbol in program.get("range_constraints") or {}:
        if SYMBOL.fullmatch(symbol) is None:
            raise Suspicious(f"has a size named {symbol[:100]!r}, which is no plain symbol")
    program["guards_code"] = []
    _strip(program)
    for key, text in _strings(program, ""):
        _check(key, text)
    return program


def _strip(part: object) -> None:
    """Leave out what is told about nodes, but for the modules in which they stand."""
    if isinstance(part, dict):
        for key, value in cast(dict[str, Any], part).items():
            if key == "metadata":
                stack = value.get(STACK) if isinstance(value, dict) else None
                part[key] = {STACK: re.sub(r"[^\w.;,]", "_", stack)} if isinstance(stack, str) else {}
            else:
                _strip(value)
    elif isinstance(part, list):
        for value in cast(list[Any], part):
            _strip(value)


def _strings(part: object, key: str) -> Iterator[tuple[str, str]]:
    """All strings in ``part``, names of entries among them, with the key that they stand at."""
    if isinstance(part, str):
        yield key, part
    elif isinstance(part, dict):
        for name, value in cast(dict[str, Any], part).items():
            yield "", name
            yield from _strings(value, name)
    elif isinstance(part, list):
        for value in cast(list[Any], part):
            yield from _strings(value, key)


def _check(key: str, text: str) -> None:
    if key in OPERATORS:
        if TARGETS.fullmatch(text) is None:
            raise Suspicious(f"calls {text!r}, which is no operator on tensors of torch's or convbias's")
    elif key == "expr_str":
        if not is_harmless(text):
            raise Suspicious(f"has the size {text[:100]!r}, which is no plain expression")
    elif key in SPECS:
        _check_structure(json.loads(text), SPECS[key])
    elif key in NAMES:
        if NAME.fullmatch(text) is None:
            raise Suspicious(f"has a value named {text[:100]!r}, which is no plain name")
    elif key != STACK and key not in QUOTED and PATH.fullmatch(text) is None:
        raise Suspicious(f"holds {text[:100]!r}, which is no plain name")


def _check_structure(spec: Any, names: re.Pattern[str]) -> None:
    """That inputs or outputs are tensors in tuples, lists and dicts: torch imports what other kinds name."""
    protocol, node = spec
    left = [node]
    while left:
        one = left.pop()
        kind, context, children = one["type"], one["context"], one["children_spec"]
        if protocol != 1 or kind not in STRUCTURES or (kind is None and children):
            raise Suspicious(f"has a structure of {str(kind)[:100]!r}, which is no tuple, list or dict")
        keys = [] if context is None else json.loads(context) or []
        if not isinstance(keys, list) or not all(
            isinstance(name, int) or (isinstance(name, str) and names.fullmatch(name))
            for name in cast(list[Any], keys)
        ):
            raise Suspicious(f"has a structure with {str(context)[:100]!r}, which are no plain names")
        left += children
