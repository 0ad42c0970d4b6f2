"""Stability and speed of a convention on quadratics, from its coefficients.

On h·p²/2 the gradient is h·p, so a step is a 2×2 matrix, and its spectral radius the factor by
which the distance to the minimum shrinks with every step in the long run. Below 1 it converges.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import NamedTuple, TypedDict, Unpack

from sgdm.convention import Convention, WeightDecayMode
from sgdm.errors import InvalidTypeError, InvalidValueError
from sgdm.frameworks import get_convention
from sgdm.hyperparameters import check_combination, check_range, check_weight_decay_mode
from sgdm.system import Run

__all__ = ["Best", "Rule", "best", "best_lr", "largest_lr", "rate"]


class Rule(TypedDict, total=False):
    """Hyperparameters besides lr, as `sgdm.SGD` takes them; momentum is 0 where it is not given."""

    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    nu: float | None
    weight_decay_mode: WeightDecayMode | None


class Best(NamedTuple):
    """The fastest choice on quadratics with curvatures between 1/condition_number and 1.

    Attributes:
        lr: ε for a largest curvature of 1; divide it by the largest curvature that there is.
        momentum: μ.
        rate: The factor by which the distance to the minimum shrinks in the worst direction.
    """

    lr: float
    momentum: float
    rate: float


def rate(
    convention: str | Convention,
    *,
    lr: float,
    curvature: float | Sequence[float],
    **rule: Unpack[Rule],
) -> float:
    """Return the factor by which the distance to the minimum shrinks with every step.

    Args:
        convention: The rule.
        lr: ε >= 0.
        curvature: h, or several, of which the slowest counts.
        **rule: The other hyperparameters.

    Returns:
        The spectral radius of the step; 1 and above does not converge.

    Raises:
        InvalidValueError: If a number is out of range, or the rule has no place for it.
        InvalidTypeError: If one is no number, or a hyperparameter is unknown.
        InvalidUseError: If the convention is not run by `SGD`.

    Example:
        >>> from sgdm import stability
        >>> round(stability.rate("torch", lr=1.0, curvature=0.5, momentum=0.81), 12)
        0.9

    Reference:
        Polyak 1964, section 3: the eigenvalues of a method with memory.
    """
    row = _checked(convention, rule)
    check_range("lr", lr)
    curvatures = list(curvature) if isinstance(curvature, Sequence) else [curvature]
    for h in curvatures:
        _check_number("curvature", h, 0.0)
    if not curvatures:
        raise InvalidValueError.of("curvature", "a number or several", curvature, "give one")
    return max(_radius(row, lr, h, rule) for h in curvatures)


def largest_lr(
    convention: str | Convention, *, curvature: float = 1.0, **rule: Unpack[Rule]
) -> float:
    """Return the learning rate below which the rule converges on h·p²/2.

    Args:
        convention: The rule.
        curvature: h > 0, the largest that there is.
        **rule: The other hyperparameters.

    Returns:
        The bound, to rounding; 0 where no learning rate converges, as with μ >= 1.

    Raises:
        InvalidValueError, InvalidTypeError, InvalidUseError: As `rate` does.

    Example:
        >>> from sgdm import stability
        >>> round(stability.largest_lr("torch", momentum=0.9), 12)
        3.8
        >>> round(stability.largest_lr("torch", momentum=0.9, nesterov=True), 12)
        1.357142857143

    Reference:
        Jury's conditions for second-order polynomials; for heavy ball Polyak 1964, theorem 9.
    """
    row = _checked(convention, rule)
    _check_number("curvature", curvature, math.ulp(0.0))

    def stable(lr: float) -> bool:
        return _radius(row, lr, curvature, rule) < 1

    low = 1e-9 / curvature
    if not stable(low):
        return 0.0
    high = low
    while stable(high):
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if stable(middle) else (low, middle)
    return high


def best_lr(convention: str | Convention, *, condition_number: float, **rule: Unpack[Rule]) -> Best:
    """Return the fastest learning rate for a given momentum.

    Args:
        convention: The rule.
        condition_number: Of the quadratics: the largest curvature over the smallest; >= 1.
        **rule: The other hyperparameters.

    Returns:
        The choice; where several are as fast, the smallest.

    Raises:
        InvalidValueError, InvalidTypeError, InvalidUseError: As `rate` does.

    Example:
        >>> from sgdm import stability
        >>> found = stability.best_lr("torch", condition_number=9)
        >>> round(found.lr, 6), round(found.rate, 6)
        (1.8, 0.8)

    Reference:
        For heavy ball 2(1+μ)/(L+l), Polyak 1964, theorem 9.
    """
    row = _checked(convention, rule)
    _check_number("condition_number", condition_number, 1.0)
    return _best_lr(row, condition_number, rule)


def best(convention: str | Convention, *, condition_number: float, **rule: Unpack[Rule]) -> Best:
    """Return the fastest learning rate and momentum.

    Args:
        convention: The rule.
        condition_number: Of the quadratics: the largest curvature over the smallest; >= 1.
        **rule: The other hyperparameters; a momentum among them is not used.

    Returns:
        The choice, to about six digits; where it is fastest two eigenvalues meet, and the rate has
        a kink.

    Raises:
        InvalidValueError, InvalidTypeError, InvalidUseError: As `rate` does.

    Example:
        >>> from sgdm import stability
        >>> found = stability.best("torch", condition_number=9)
        >>> round(found.lr, 3), round(found.momentum, 3), round(found.rate, 3)
        (2.25, 0.25, 0.5)

    Reference:
        Polyak 1964, theorem 9; for Nesterov's method Lessard, Recht, Packard 2016, table 1.
    """
    row = _checked(convention, rule)
    _check_number("condition_number", condition_number, 1.0)

    def with_momentum(momentum: float) -> Best:
        return _best_lr(row, condition_number, {**rule, "momentum": momentum})

    return with_momentum(_minimizer(lambda m: with_momentum(m).rate, 0.0, 1.0))


def _best_lr(row: Convention, condition_number: float, rule: Rule) -> Best:
    momentum = rule.get("momentum", 0.0)
    top = largest_lr(row, **rule)

    def slowest(lr: float) -> float:
        return max(_radius(row, lr, h, rule) for h in (1.0, 1.0 / condition_number))

    lr = _minimizer(slowest, 0.0, top)
    return Best(lr, momentum, slowest(lr))


def _minimizer(f: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function that falls and then rises is least (golden section)."""
    golden = (math.sqrt(5) - 1) / 2
    a, b = high - golden * (high - low), low + golden * (high - low)
    at_a, at_b = f(a), f(b)
    width = 1e-15 * (high - low)
    while high - low > width and low < a < b < high:
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - golden * (high - low)
            at_a = f(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + golden * (high - low)
            at_b = f(b)
    return a if at_a <= at_b else b


def _radius(row: Convention, lr: float, curvature: float, rule: Rule) -> float:
    momentum = rule.get("momentum", 0.0)
    run = Run(
        convention=row,
        lr=lambda _: lr,
        momentum=lambda _: momentum,
        dampening=rule.get("dampening", 0.0),
        weight_decay=rule.get("weight_decay", 0.0),
        nesterov=rule.get("nesterov", False),
        nu=rule.get("nu"),
        lr0=lr or None,
        weight_decay_mode=rule.get("weight_decay_mode"),
    )
    m = run.step(0)
    a11, a21 = m.a11 + curvature * m.b1, m.a21 + curvature * m.b2
    if m.a12 == 0:  # the buffer is not seen
        return abs(a11)
    trace, determinant = a11 + m.a22, a11 * m.a22 - m.a12 * a21
    inside = trace * trace - 4 * determinant
    if inside < 0:
        return math.sqrt(determinant)
    return (abs(trace) + math.sqrt(inside)) / 2


def _checked(convention: str | Convention, rule: Rule) -> Convention:
    row = get_convention(convention) if isinstance(convention, str) else convention
    unknown = sorted(set(rule) - set(Rule.__annotations__))
    if unknown:
        raise InvalidTypeError.of(
            "the hyperparameters",
            f"among {', '.join(Rule.__annotations__)}",
            unknown[0],
            "rename it",
        )
    check_weight_decay_mode(rule.get("weight_decay_mode"))
    for name in ("momentum", "dampening", "weight_decay", "nu"):
        value = rule.get(name)
        if value is not None:
            check_range(name, value)
    check_combination(
        row,
        dampening=rule.get("dampening", 0.0),
        nesterov=rule.get("nesterov", False),
        nu=rule.get("nu"),
    )
    return row


def _check_number(name: str, value: object, least: float) -> None:
    requirement = "a finite number > 0" if 0 < least < 1 else f"a finite number >= {least:g}"
    remedy = "divide the largest curvature by the smallest" if least == 1 else "give one of h·p²/2"
    if not isinstance(value, Real):
        raise InvalidTypeError.of(name, requirement, value, remedy)
    if not least <= float(value) < math.inf:
        raise InvalidValueError.of(name, requirement, value, remedy)
