"""A convention's step as equations, read off its coefficients, so that text and code agree.

Symbols are the seed's: ε the learning rate, μ the momentum, λ the weight decay, θ the parameter and
Θ its look-ahead point; besides, τ the dampening, b the buffer, g the gradient.
"""

from typing import Any

from sympy import Symbol, sympify

from sgdm.convention import Convention
from sgdm.hyperparameters import Hyperparameters
from sgdm.recurrence import Coefficients, coefficients, look_ahead_weight, uses_nesterov

__all__ = ["step_equations"]

_SYMBOLS = {"lr": "ε", "weight_decay": "λ", "lr0": "ε_0"}


def step_equations(
    convention: Convention, *, nesterov: bool = False, first: bool = False
) -> tuple[str, ...]:
    r"""Return the step as lines of text, in the order in which it runs.

    Args:
        convention: The rule.
        nesterov: Whether Nesterov's method is asked for.
        first: The step that creates the buffer, in place of a later one.

    Example:
        >>> from sgdm import get_convention
        >>> from sgdm.equations import step_equations
        >>> print(*step_equations(get_convention("torch"), nesterov=True), sep="\n")
        d = g + λ·Θ
        b = μ·b + (1 - τ)·d
        Θ = Θ - ε·(d + μ·b)
    """
    symbols: dict[str, Any] = {name: Symbol(text) for name, text in _SYMBOLS.items()}
    symbols["momentum"] = Symbol("μ_{t+1}" if convention.momentum == "next" else "μ")
    if convention.gain == "1-dampening":
        symbols["dampening"] = Symbol("τ")
    h = Hyperparameters(**symbols, nesterov=nesterov)
    c = coefficients(convention, h, first=first)
    ahead = look_ahead_weight(convention, h)
    point = "Θ" if uses_nesterov(convention, h) else "θ"
    lines = [] if ahead == 0 else [f"Θ = {_sum((1, 'θ'), (ahead, 'b'))}, where g is taken"]
    lines.append(f"d = {_sum((1, 'g'), (c.coupled_decay, point))}")
    lines.append(f"b = {_sum((0 if first else c.retain, 'b'), (c.gain, 'd'))}")
    lines.append(f"{point if ahead == 0 else 'θ'} = {_update(c, point)}")
    return tuple(lines)


def _update(c: Coefficients, point: str) -> str:
    move = [(c.gradient_weight, "d"), (c.buffer_weight, "b")]
    move = [(weight, name) for weight, name in move if weight != 0]
    if len(move) == 1 or c.step in (1, -1):
        return _sum((c.keep, point), *((c.step * weight, name) for weight, name in move))
    return _sum((c.keep, point), (c.step, f"({_sum(*move)})"))


def _sum(*terms: tuple[object, str]) -> str:
    """Write a linear combination as a person would."""
    text = ""
    for coefficient, name in terms:
        weight: Any = sympify(coefficient)
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
    text = str(weight).replace("*", "·")
    return f"({text})·{name}" if weight.is_Add else f"{text}·{name}"
