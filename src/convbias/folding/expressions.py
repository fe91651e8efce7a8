"""Expressions for sizes in files that nobody vouches for: which ones torch may evaluate."""

from __future__ import annotations

import ast
import re
from typing import Final

SYMBOL: Final = re.compile(r"z?[suf]+\d+")
# As sympy writes symbols: Symbol('s77', positive=True, integer=True).
QUOTED: Final = re.compile(r"Symbol\('(z?[suf]+\d+)'(?:, \w+=True)*\)")
# Functions, by the number of their arguments; None for one or more.
FUNCTIONS: Final[dict[str, int | None]] = {
    **dict.fromkeys(("Add", "Mul", "Max", "Min", "And", "Or"), None),
    **dict.fromkeys(("Integer", "Abs", "Not", "Identity", "ToFloat"), 1),
    **dict.fromkeys(("CeilToInt", "FloorToInt", "TruncToInt", "RoundToInt"), 1),
    **dict.fromkeys(("Pow", "PowByNatural", "Rational", "FloorDiv", "CleanDiv", "CeilDiv"), 2),
    **dict.fromkeys(("Mod", "PythonMod", "IntTrueDiv", "FloatTrueDiv"), 2),
    **dict.fromkeys(("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality"), 2),
    **dict.fromkeys(("StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"), 2),
    **dict.fromkeys(("ModularIndexing", "Where"), 3),
}
POWERS: Final = ("Pow", "PowByNatural")
SUMS: Final = (ast.Add, ast.Sub, ast.BitAnd, ast.BitOr)
PRODUCTS: Final = (ast.Mult, ast.FloorDiv, ast.Div, ast.Mod)
LONGEST: Final = 2000
# Of numbers and exponents as they are written, and of a result: its bits, and its terms when multiplied out.
LARGEST, LARGEST_POWER, MOST_BITS, MOST_TERMS = 2**63, 8, 4096, 256
# How large a value can be, and how many terms it has.
Size = tuple[int, int]


def is_harmless(expression: object) -> bool:
    """Whether an expression is made of symbols, numbers, known functions and arithmetic, and is soon done.

    >>> is_harmless("2*s77 + Mod(s27, 2)"), is_harmless("__import__('os')"), is_harmless("9**(9*9*9)")
    (True, False, False)
    """
    if not isinstance(expression, str) or len(expression) > LONGEST:
        return False
    try:
        _size(ast.parse(QUOTED.sub(r"\1", expression).strip(), mode="eval").body)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def _size(node: ast.expr) -> Size:
    """How much work an expression is. Raises ValueError for what is none, or too much."""
    bits, terms = _unbounded(node)
    if bits > MOST_BITS or terms > MOST_TERMS:
        raise ValueError("too large")
    return bits, terms


def _unbounded(node: ast.expr) -> Size:
    match node:
        case ast.Constant(value=bool()):
            return 1, 1
        case ast.Constant(value=int() | float() as number) if abs(number) < LARGEST:
            return 64, 1
        case ast.Name(id=name) if SYMBOL.fullmatch(name):
            return 64, 1
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Invert() | ast.Not(), operand=inner):
            return _size(inner)
        case ast.Compare(left=left, comparators=[right]):
            return _sum([_size(left), _size(right)])
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(left, right)
        case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, SUMS):
            return _sum([_size(left), _size(right)])
        case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, PRODUCTS):
            return _product([_size(left), _size(right)])
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            if FUNCTIONS[name] not in (None, len(arguments)) or not arguments:
                raise ValueError("another number of arguments")
            if name in POWERS:
                return _power(*arguments)
            sizes = [_size(argument) for argument in arguments]
            return _product(sizes) if name in ("Mul", "Rational") else _sum(sizes)
        case _:
            raise ValueError("no plain expression")


def _sum(sizes: list[Size]) -> Size:
    return sum(bits for bits, _ in sizes), sum(terms for _, terms in sizes)


def _product(sizes: list[Size]) -> Size:
    terms = 1
    for _, each in sizes:
        terms *= each
    return sum(bits for bits, _ in sizes), terms


def _power(base: ast.expr, exponent: ast.expr) -> Size:
    """Of a power, whose exponent must be a small number as it stands: a computed one may be of any size."""
    number = exponent.args[0] if isinstance(exponent, ast.Call) and len(exponent.args) == 1 else exponent
    _size(exponent)
    if isinstance(number, ast.UnaryOp) and isinstance(number.op, ast.USub):
        number = number.operand
    power = number.value if isinstance(number, ast.Constant) else None
    if not isinstance(power, int) or not 0 <= power <= LARGEST_POWER:
        raise ValueError("a power that may be large")
    bits, terms = _size(base)
    return bits * max(power, 1), terms ** max(power, 1)
