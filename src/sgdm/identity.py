"""When two conventions make the same trajectory: decided exactly, on their coefficients.

Both are run through the same gradients. While a schedule is free to move, each is a linear map of
the past gradients, whose coefficients are rational functions of the schedule. Those are compared at
drawn rational schedules, in exact arithmetic: a difference is a proof; two rules that are not the
same agree at drawn 40-bit numbers with a chance below 2**-30. Four responses decide, since two
rules of two states each differ within them or never.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import product
from random import Random
from typing import Any, Literal, NamedTuple, Protocol

from sgdm.convention import Convention, WeightDecayMode
from sgdm.system import Run, responses

__all__ = [
    "Fingerprint",
    "Identical",
    "Side",
    "Values",
    "fingerprint",
    "identity",
    "same_over_zero",
    "verdict",
]

Identical = Literal[
    "always",
    "unless lr and momentum change at once",
    "while lr is constant",
    "while momentum is constant",
    "while lr and momentum are constant",
    "never",
]

_RESPONSES = 4
_TRIALS = 2


class Values(Protocol):
    """What hyperparameters are put in: schedules, and constants by name."""

    @property
    def constants(self) -> Mapping[str, Any]:
        """Return dampening, weight_decay, nu and lr0."""
        ...

    def lr(self, t: int) -> Any:
        """Return ε_t."""
        ...

    def momentum(self, t: int) -> Any:
        """Return μ_t."""
        ...


class _Changes(Protocol):
    """Hyperparameters as functions of the other side's."""

    def __call__(self, run: Run, values: Values) -> Run:
        """Return the run with them put in."""
        ...


def _unchanged(run: Run, values: Values) -> Run:  # noqa: ARG001
    return run


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of two conventions that are compared.

    Attributes:
        convention: The rule.
        nesterov: Whether Nesterov's method is asked for.
        dampening: Whether there is a τ.
        weight_decay: Whether there is a λ.
        weight_decay_mode: How it acts; None for the rule's own way.
        corrected: Whether its momentum is corrected on request.
        change: What is made of its hyperparameters, the other side's being given.
    """

    convention: Convention
    nesterov: bool = False
    dampening: bool = False
    weight_decay: bool = False
    weight_decay_mode: WeightDecayMode | None = None
    corrected: bool = False
    change: _Changes = field(default=_unchanged)

    def run(self, values: Values) -> Run:
        """Return the convention with hyperparameters."""
        row, constants = self.convention, values.constants
        run = Run(
            convention=row,
            lr=values.lr,
            momentum=values.momentum,
            dampening=constants["dampening"] if self.dampening else 0,
            weight_decay=constants["weight_decay"] if self.weight_decay else 0,
            nesterov=self.nesterov,
            nu=constants["nu"] if row.look_ahead == "nu" else None,
            lr0=constants["lr0"],
            weight_decay_mode=self.weight_decay_mode,
        )
        return self.change(run, values)


class _Drawn:
    """Rational schedules, each free or constant, and constants: 40 bits drawn for every name."""

    def __init__(self, trial: int, free: "_Free") -> None:
        self._trial = trial
        self._free = free
        names = ("dampening", "weight_decay", "nu", "lr0")
        self.constants = {name: self._draw(name) for name in names}

    def _draw(self, name: str) -> Fraction:
        return Fraction(Random(f"{self._trial} {name}").getrandbits(40) | 1, 1 << 41)

    def lr(self, t: int) -> Fraction:
        """Return ε_t."""
        return self._draw(f"lr {t * self._free.lr}")

    def momentum(self, t: int) -> Fraction:
        """Return μ_t."""
        return self._draw(f"momentum {t * self._free.momentum}")


class _Free(NamedTuple):
    """Which schedules move."""

    lr: bool
    momentum: bool


_REGIMES = [_Free(*free) for free in product((True, False), repeat=2)]

Fingerprint = dict[_Free, tuple[Any, ...]]


@lru_cache(maxsize=512)
def fingerprint(side: Side, *, from_start: bool = False) -> Fingerprint:
    """Return what tells a convention from another: its answers to gradients, in each regime.

    Args:
        side: The convention.
        from_start: Whether it begins without a buffer, in place of in mid-run.
    """
    return {
        free: tuple(
            answer
            for trial in range(_TRIALS)
            for answer in _answers(side.run(_Drawn(trial, free)), from_start=from_start)
        )
        for free in _REGIMES
    }


def _answers(run: Run, *, from_start: bool) -> list[Any]:
    if not from_start:
        return list(responses(run, 0, _RESPONSES))
    gradients = [Fraction(2 * k + 3, k + 5) * (-1) ** k for k in range(_RESPONSES + 1)]
    return list(run.path(Fraction(7, 3), gradients))


def identity(a: Side, b: Side, *, from_start: bool = False) -> Identical:
    """Return when two conventions answer every gradient alike.

    Args:
        a: One.
        b: The other.
        from_start: Whether to compare trajectories that begin without a buffer, in place of the
            responses to gradients in mid-run.

    Example:
        >>> from sgdm import get_convention
        >>> from sgdm.identity import Side, identity
        >>> a, b = (Side(convention=get_convention(name)) for name in ("torch", "caffe"))
        >>> identity(a, b)
        'while lr is constant'
    """
    return verdict(*(fingerprint(side, from_start=from_start) for side in (a, b)))


def verdict(a: Fingerprint, b: Fingerprint) -> Identical:
    """Return when two fingerprints agree."""
    same = {free: a[free] == b[free] for free in _REGIMES}
    if same[_Free(lr=True, momentum=True)]:
        return "always"
    lr_held, momentum_held = same[_Free(False, True)], same[_Free(True, False)]
    if lr_held and momentum_held:
        return "unless lr and momentum change at once"
    if lr_held:
        return "while lr is constant"
    if momentum_held:
        return "while momentum is constant"
    return "while lr and momentum are constant" if same[_Free(False, False)] else "never"


def same_over_zero(a: Side, b: Side, name: Literal["lr", "momentum"]) -> bool:
    """Return whether two conventions that are alike stay so across a step with ε = 0 or μ = 0.

    What 0 does is a definition of its own in some, so it is run by itself: in mid-run, from a
    converted state, with all else constant.
    """
    usual = _Drawn(0, _Free(lr=False, momentum=False))
    ends: list[bool] = []
    for values in (usual, _Stopped(usual, name)):
        runs = a.run(values), b.run(values)
        x, y = (run.step(0) for run in runs)
        if y.a12 == 0:
            return True
        theta, own = Fraction(5, 3), Fraction(7, 4)
        u, s = x.buffer_in(y)
        converted = u * theta + s * own
        gradients = [Fraction(2 * k + 3, k + 5) for k in range(8)]
        one, other = (
            list(run.path(theta, gradients, b=buffer))
            for run, buffer in zip(runs, (own, converted), strict=True)
        )
        ends.append(bool(one == other))
    usual_same, stopped_same = ends
    return stopped_same or not usual_same


class _Stopped:
    """Other values, with a schedule that is 0 for one step."""

    def __init__(self, values: Values, name: str) -> None:
        self._values = values
        self._name = name
        self.constants = values.constants

    def lr(self, t: int) -> Any:
        """Return ε_t."""
        return Fraction(0) if (t, self._name) == (3, "lr") else self._values.lr(t)

    def momentum(self, t: int) -> Any:
        """Return μ_t."""
        return Fraction(0) if (t, self._name) == (3, "momentum") else self._values.momentum(t)
