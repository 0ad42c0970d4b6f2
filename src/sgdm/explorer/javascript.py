"""Python's formulas as JavaScript: called with symbols and printed, never written twice."""

from collections.abc import Iterable, Sequence
from typing import Any

import sympy
from sympy.printing.jscode import JavascriptCodePrinter
from sympy.printing.precedence import PRECEDENCE

__all__ = ["arrow", "body", "symbols"]

_algebra: Any = sympy  # which is typed in part


def symbols(*names: str) -> tuple[Any, ...]:
    """Return a symbol for each name, which is a JavaScript identifier."""
    return tuple(_algebra.Symbol(name) for name in names)


def arrow(arguments: Iterable[Any], text: str) -> str:
    """Return a function of the arguments with the text of `body`."""
    return f"({', '.join(map(str, arguments))}) => {{ {text} }}"


def body(*expressions: Any) -> str:
    """Return the statements that return the expressions, an array where they are several."""
    parts: Sequence[tuple[Any, Any]]
    parts, results = _algebra.cse([_algebra.sympify(e) for e in expressions])
    constants = [f"const {name} = {_PRINTER.doprint(value)};" for name, value in parts]
    texts = [_PRINTER.doprint(result) for result in results]
    result = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    return " ".join([*constants, f"return {result};"])


class _Printer(JavascriptCodePrinter):
    def _print_Pow(self, expr: Any) -> str:  # noqa: N802
        """Print a small power as products, which round in one way; Math.pow is left to choose."""
        if expr.exp in (2, 3):
            factor = self.parenthesize(expr.base, PRECEDENCE["Atom"])
            return f"({'*'.join([factor] * int(expr.exp))})"
        return super()._print_Pow(expr)


_PRINTER: Any = _Printer()
