"""Where rules converge on quadratics, and how fast: learning rate by momentum."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy

from sgdm.equations import as_text
from sgdm.frameworks import get_convention
from sgdm.hyperparameters import check_combination
from sgdm.rule_name import check_nu_is_read, parse_rule
from sgdm.stability import Rule, rate
from sgdm.system import Run

__all__ = ["Map", "StabilityMap", "largest_stable", "stability_map"]

_algebra: Any = sympy  # which is typed in part
_LR, _MOMENTUM = _algebra.symbols("ε μ", positive=True)


_MOMENTA = tuple(i / 100 for i in range(100))
_COLUMNS = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Map:
    """One rule.

    Attributes:
        rule: Its name.
        lrs: ε times the curvature, as far as is of interest.
        rates: The factor by which the distance to the minimum shrinks with every step: a row for
            every momentum, a column for every learning rate.
        boundary: For every momentum the learning rate below which it converges.
        formula: The boundary as text, in μ.
    """

    rule: str
    lrs: tuple[float, ...]
    rates: tuple[tuple[float, ...], ...]
    boundary: tuple[float, ...]
    formula: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StabilityMap:
    """The maps.

    Attributes:
        momenta: μ.
        maps: One a rule.
    """

    momenta: tuple[float, ...]
    maps: tuple[Map, ...]


def stability_map(
    *,
    conventions: Sequence[str] = ("torch", "torch:nesterov"),
    nu: float | None = None,
) -> StabilityMap:
    """Compute the maps from the rules' coefficients.

    Args:
        conventions: Rules, each with ":nesterov" for its Nesterov form.
        nu: ν of the rules that have one.

    Raises:
        InvalidValueError: If a name is unknown, or ν is missing.
    """
    check_nu_is_read(conventions, nu)
    return StabilityMap(momenta=_MOMENTA, maps=tuple(_map(rule, nu) for rule in conventions))


def _map(rule: str, nu: float | None) -> Map:
    edge = largest_stable(rule, nu=nu)
    boundary = {momentum: float(edge.subs(_MOMENTUM, momentum)) for momentum in _MOMENTA}
    # Towards μ = 1 a rule with unit gain takes any ε: all else would be too small to see.
    widest = 1.05 * max(boundary[0.0], boundary[0.9])
    lrs = [widest * i / _COLUMNS for i in range(1, _COLUMNS + 1)]
    name = parse_rule(rule)
    rates: list[tuple[float, ...]] = []
    for momentum in _MOMENTA:
        given = Rule(momentum=momentum, nesterov=name.nesterov, nu=name.own_nu(nu))
        rates.append(tuple(rate(name.convention, lr=lr, curvature=1.0, **given) for lr in lrs))
    return Map(
        rule=rule,
        lrs=tuple(lrs),
        rates=tuple(rates),
        boundary=tuple(boundary.values()),
        formula=as_text(edge),
    )


def largest_stable(rule: str, *, nu: float | None = None) -> Any:
    """Return the boundary as an expression in μ: where an eigenvalue is -1.

    Of Jury's conditions for the step on p²/2 it is the first that fails with a growing ε.

    Args:
        rule: A convention, with ":nesterov" for its Nesterov form.
        nu: ν, where the rule has one.

    Raises:
        InvalidValueError: If the name is unknown, or ν is missing.
        InvalidUseError: If the convention is not run by `SGD`.

    Example:
        >>> largest_stable("torch:nesterov")
        2*(μ + 1)/(2*μ + 1)
    """
    name = parse_rule(rule)
    row, own_nu = get_convention(name.convention), name.own_nu(nu)
    check_combination(row, dampening=0, nesterov=name.nesterov, nu=own_nu)
    m = Run(
        convention=row,
        lr=lambda _: _LR,
        momentum=lambda _: _MOMENTUM,
        nesterov=name.nesterov,
        nu=None if own_nu is None else _algebra.nsimplify(own_nu),
    ).step(0)
    a11, a21 = m.a11 + m.b1, m.a21 + m.b2
    at_minus_one = 1 + (a11 + m.a22) + (a11 * m.a22 - m.a12 * a21)
    (edge,) = _algebra.solve(at_minus_one, _LR)
    return _algebra.factor(edge)
