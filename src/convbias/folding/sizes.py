"""Other sizes than the example's, at which a rewriting has to hold as well."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from torch import SymInt, Tensor
from torch.fx import Node

from ..errors import FoldRefused

# The sizes that the input decides, by their symbols.
Sizes = Mapping[Any, int]
# How far from the example's they are looked for, and how many are tried.
APART, NEAR = 64, 2
# How many times as large another one is.
TIMES: Final = (2, 3, 4)


def at(size: Any, sizes: Sizes | None = None) -> Any:
    """A size for the example, or for inputs of other ``sizes``; whatever else is no tensor is itself."""
    if not isinstance(size, SymInt):
        return size
    return size.node.hint if sizes is None else int(size.node.expr.subs(sizes))


def others(given: Iterable[Tensor], ranges: Mapping[Any, Any]) -> list[Sizes]:
    """Some sizes that a network of these inputs takes, as unlike each other as may be."""
    example, guards = dict[Any, int](), dict[Any, None]()
    for size in (size for value in given for size in value.shape if isinstance(size, SymInt)):
        guards |= dict.fromkeys(guard.expr for guard in size.node.shape_env.guards)
        # It may be a multiple of a symbol, and no symbol itself.
        expr = size.node.expr
        for symbol in expr.free_symbols:
            example[symbol] = int((size.node.hint - expr.subs({symbol: 0})) / expr.coeff(symbol))
    # That two numbers differ, export says of layouts of memory, and the network takes them alike as well.
    binding = (guard for guard in guards if getattr(guard, "rel_op", "") != "!=")
    known = [guard for guard in binding if guard.free_symbols <= example.keys()]
    numbers = [_numbers(symbol, number, ranges, known) for symbol, number in example.items()]
    if not all(numbers):
        return []
    found: list[Sizes] = []
    for step in (1, 0):
        for turn in range(max(map(len, numbers), default=0)):
            some = [one[(turn + i * step) % len(one)] for i, one in enumerate(numbers)]
            sizes = dict(zip(example, some, strict=True))
            if _keeps(sizes, known):
                found.append(sizes)
        if found:
            break  # alike they are tried where the network wants them so
    return found


def _numbers(symbol: Any, example: int, ranges: Mapping[Any, Any], guards: list[Any]) -> list[int]:
    """Other numbers that the symbol may be: some near the example's, and a larger one."""
    own = [guard for guard in guards if guard.free_symbols == {symbol}]
    bounds = ranges.get(symbol)

    def legal(number: int) -> bool:
        inside = bounds is None or bool(bounds.lower <= number <= bounds.upper)
        return inside and _keeps({symbol: number}, own)

    steps = range(1, APART + 1)
    near = (*(example + step for step in steps), *(example - step for step in steps if step < example))
    larger = (example * times for times in TIMES)
    some = (*itertools.islice(filter(legal, near), NEAR), *itertools.islice(filter(legal, larger), 1))
    return list(dict.fromkeys(some))


def _keeps(sizes: Sizes, guards: Iterable[Any]) -> bool:
    """Whether nothing that export has found to be so is otherwise at these sizes."""
    return all(bool(guard.subs(sizes)) for guard in guards)


def are_free(nodes: Iterable[Node]) -> bool:
    """Whether the input decides any size in what the nodes read and make."""
    values = (one.meta.get("val") for node in nodes for one in (node, *node.all_input_nodes))
    sizes = (size for value in values for size in (value.shape if isinstance(value, Tensor) else (value,)))
    return any(isinstance(size, SymInt) for size in sizes)


def ensure(law: str, other_sizes: Iterable[Sizes], holds: Callable[[Sizes], bool]) -> None:
    """Raises FoldRefused for what does not hold at ``other_sizes``, and where it can be tried at none."""
    tried = False
    for sizes in other_sizes:
        try:
            same = holds(sizes)
        except FoldRefused:
            same = False
        except (RuntimeError, IndexError):
            continue  # it does not take them, which no guard says
        if not same:
            raise FoldRefused(law, "it holds at the example's size, and not at others")
        tried = True
    if not tried:
        raise FoldRefused(law, "no other size is known at which it could be tried")
