"""How the best rate of a rule depends on the condition number of the quadratics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sgdm.errors import InvalidValueError
from sgdm.rule_name import check_nu_is_read, parse_rule
from sgdm.stability import Rule, best, best_lr

__all__ = ["Spectrum", "Tuned", "fastest", "plain_descent", "spectrum"]

_DECADES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """One rule, over the condition numbers.

    Attributes:
        rule: Its name.
        best: The rate with the best learning rate and momentum, at `Spectrum.condition_numbers`.
        held: The rate with the best learning rate for the given momentum, at
            `Spectrum.condition_numbers_held`.
    """

    rule: str
    best: tuple[float, ...]
    held: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spectrum:
    """The rules.

    Attributes:
        momentum: μ of the rates with a given momentum.
        condition_numbers: κ, two a decade.
        condition_numbers_held: κ, ten a decade.
        rules: In the order given.
    """

    momentum: float
    condition_numbers: tuple[float, ...]
    condition_numbers_held: tuple[float, ...]
    rules: tuple[Tuned, ...]


def spectrum(
    *,
    conventions: Sequence[str] = ("torch", "torch:nesterov"),
    momentum: float = 0.9,
    nu: float | None = None,
) -> Spectrum:
    """Tune the rules for quadratics with curvatures from 1/κ to 1.

    Args:
        conventions: Rules, each with ":nesterov" for its Nesterov form.
        momentum: μ, where it is not tuned.
        nu: ν of the rules that have one.

    Raises:
        InvalidValueError: If a name is unknown or a number is out of range.
    """
    if not 0 <= momentum < 1:
        raise InvalidValueError.of("momentum", ">= 0 and < 1", momentum, "0.9 is usual")
    check_nu_is_read(conventions, nu)
    few = tuple(10 ** (i / 2) for i in range(1, 2 * _DECADES + 1))
    many = tuple(10 ** (i / 10) for i in range(1, 10 * _DECADES + 1))
    return Spectrum(
        momentum=momentum,
        condition_numbers=few,
        condition_numbers_held=many,
        rules=tuple(_tuned(rule, nu, momentum, few, many) for rule in conventions),
    )


def _tuned(
    name: str, nu: float | None, momentum: float, few: Sequence[float], many: Sequence[float]
) -> Tuned:
    convention, nesterov = parsed = parse_rule(name)
    rule = Rule(momentum=momentum, nesterov=nesterov, nu=parsed.own_nu(nu))
    return Tuned(
        rule=name,
        best=tuple(best(convention, condition_number=k, **rule).rate for k in few),
        held=tuple(best_lr(convention, condition_number=k, **rule).rate for k in many),
    )


def plain_descent(condition_number: float) -> float:
    """Return the best rate without momentum, (κ-1)/(κ+1)."""
    return (condition_number - 1) / (condition_number + 1)


def fastest(condition_number: float) -> float:
    """Return the best rate of any rule with one buffer, (√κ-1)/(√κ+1).

    Reference:
        Polyak 1964, theorem 9; that nothing is faster follows from Chebyshev's polynomials.
    """
    root = math.sqrt(condition_number)
    return (root - 1) / (root + 1)
