"""A convention's step as equations, read off its coefficients, so that text and code agree.

Symbols are the seed's: ε the learning rate, μ the momentum, λ the weight decay, θ the parameter and
Θ its look-ahead point; besides, τ the dampening, ν the buffer's share of the move, b the buffer, g
the gradient.
"""

from typing import Any

import sympy
from sympy.printing.str import StrPrinter

from sgdm.convention import Convention
from sgdm.hyperparameters import Hyperparameters
from sgdm.recurrence import Coefficients, coefficients, look_ahead_weight, uses_nesterov

__all__ = ["as_text", "step_equations", "weighted_sum"]

_algebra: Any = sympy  # which is typed in part

_SYMBOLS = {"lr": "ε", "weight_decay": "λ", "lr0": "ε_0", "nu": "ν"}


def step_equations(
    convention: Convention,
    *,
    nesterov: bool = False,
    first: bool = False,
    dampening: bool = True,
    weight_decay: bool = True,
) -> tuple[str, ...]:
    r"""Return the step as lines of text, in the order in which it runs.

    Args:
        convention: The rule.
        nesterov: Whether Nesterov's method is asked for.
        first: The step that creates the buffer, in place of a later one.
        dampening: Whether there is a τ, where the rule has it.
        weight_decay: Whether there is a λ.

    Example:
        >>> from sgdm import get_convention
        >>> from sgdm.equations import step_equations
        >>> print(*step_equations(get_convention("torch"), nesterov=True), sep="\n")
        d = g + λ·Θ
        b = μ·b + (1 - τ)·d
        Θ = Θ - ε·(d + μ·b)
    """
    symbols: dict[str, Any] = {name: _algebra.Symbol(text) for name, text in _SYMBOLS.items()}
    symbols["momentum"] = _algebra.Symbol("μ_{t+1}" if convention.momentum == "next" else "μ")
    if convention.momentum == "previous":
        symbols["last_momentum"] = _algebra.Symbol("μ_{t-1}")
    if not weight_decay:
        del symbols["weight_decay"]
    if dampening and convention.gain == "1-dampening":
        symbols["dampening"] = _algebra.Symbol("τ")
    h = Hyperparameters(**symbols, nesterov=nesterov)
    c = coefficients(convention, h, first=first)
    ahead = look_ahead_weight(convention, h)
    point = "Θ" if uses_nesterov(convention, h) else "θ"
    lines = [] if ahead == 0 else [f"Θ = {weighted_sum((1, 'θ'), (ahead, 'b'))}, where g is taken"]
    lines.append(f"d = {weighted_sum((1, 'g'), (c.coupled_decay, point))}")
    lines.append(f"b = {weighted_sum((0 if first else c.retain, 'b'), (c.gain, 'd'))}")
    lines.append(f"{point if ahead == 0 else 'θ'} = {_update(c, point)}")
    return tuple(lines)


def _update(c: Coefficients, point: str) -> str:
    move = [(c.gradient_weight, "d"), (c.buffer_weight, "b")]
    move = [(weight, name) for weight, name in move if weight != 0]
    if len(move) == 1 or c.step in (1, -1):
        return weighted_sum((c.keep, point), *((c.step * weight, name) for weight, name in move))
    return weighted_sum((c.keep, point), (c.step, f"({weighted_sum(*move)})"))


def weighted_sum(*terms: tuple[object, str]) -> str:
    """Write a linear combination as a person would; "" where every weight is 0."""
    text = ""
    for coefficient, name in terms:
        weight: Any = _algebra.sympify(coefficient)
        if weight == 0:
            continue
        minus = not weight.is_Add and weight.could_extract_minus_sign()
        product = _product(-weight if minus else weight, name)
        if text:
            text += f" - {product}" if minus else f" + {product}"
        else:
            text = f"-{product}" if minus else product
    return text


def _product(weight: Any, name: str) -> str:
    if weight == 1:
        return name
    text = as_text(weight)
    return f"({text})·{name}" if " " in text and not text.endswith(")") else f"{text}·{name}"


def as_text(expression: object) -> str:
    """Write an expression as a person would: 1 - μ, not -(μ - 1)."""
    whole: Any = _algebra.sympify(expression)
    form = min(_positive_factors(whole), _algebra.expand(whole), key=_symbols_in)
    return _PRINTER.doprint(form)


def _symbols_in(expression: Any) -> int:
    return sum(1 for part in _algebra.preorder_traversal(expression) if part.is_Symbol)


def _positive_factors(expression: Any) -> Any:
    """Return the expression as factors that are positive for small hyperparameters, and a sign."""
    sign, factors = 1, []
    for part in _algebra.Mul.make_args(_algebra.factor(expression)):
        base, exponent = part.as_base_exp()
        if base.is_Add and base.subs(dict.fromkeys(base.free_symbols, _SMALL)) < 0:
            base, sign = -base, sign * (-1) ** exponent
        factors.append(base**exponent)
    return sign * _algebra.Mul(*factors)


_SMALL = _algebra.Rational(1, 16)


class _Printer(StrPrinter):
    """Prints sums with the positive terms first, and products with dots."""

    def _print_Add(self, expr: Any, order: object = None) -> str:  # noqa: N802, ARG002
        terms = sorted(expr.args, key=lambda term: (not term.is_Number, str(term)))
        terms.sort(key=lambda term: bool(term.could_extract_minus_sign()))
        text = self._print(terms[0])
        for term in terms[1:]:
            minus = term.could_extract_minus_sign()
            text += f" - {self._print(-term)}" if minus else f" + {self._print(term)}"
        return text

    def doprint(self, expr: Any) -> str:
        text = super().doprint(expr)
        return text.replace("**2", "²").replace("**3", "³").replace("*", "·")


_PRINTER = _Printer()
