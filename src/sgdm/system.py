"""A convention in a run, as a linear system: what each step does to (Θ, b), exactly.

One step is x' = A x + B g with x = (Θ, b), where Θ is the point at which the gradient is taken;
coupled decay is part of A. Two conventions behave alike if they answer every gradient alike, so
that is what is compared: the responses C A ... A B with C = [1, 0]. Plain arithmetic, as in
`recurrence.py`: the same lines serve fractions, floats and symbols.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sgdm.convention import Convention, WeightDecayMode
from sgdm.hyperparameters import Hyperparameters
from sgdm.recurrence import Coefficients, coefficients, look_ahead_weight

__all__ = ["Behaviour", "Run", "Schedule", "StepMap", "responses"]

Schedule = Callable[[int], Any]  # t -> the value in step t


class StepMap(NamedTuple):
    """One step: Θ' = a11 Θ + a12 b + b1 g and b' = a21 Θ + a22 b + b2 g."""

    a11: Any
    a12: Any
    a21: Any
    a22: Any
    b1: Any
    b2: Any

    def buffer_in(self, other: "StepMap") -> tuple[Any, Any]:
        """Return (u, s) such that another rule's buffer is u*Θ + s times this one's.

        Before a step that this and the other are, where both are one rule in two coordinates: the
        first rows of T A = A' T. The other's a12 must not be 0.
        """
        return (self.a11 - other.a11) / other.a12, self.a12 / other.a12

    def behaviour(self) -> "Behaviour":
        """Return what it does to Θ when every step is this one."""
        if self.a12 == 0:  # the buffer is not seen: a first-order rule
            return Behaviour(self.a11, 0, self.b1, self.a11 * self.b1)
        return Behaviour(
            self.a11 + self.a22,
            self.a11 * self.a22 - self.a12 * self.a21,
            self.b1,
            self.a11 * self.b1 + self.a12 * self.b2,
        )


class Behaviour(NamedTuple):
    """All that Θ sees of a rule with constant hyperparameters.

    Attributes:
        trace: The sum of the step's eigenvalues.
        determinant: Their product.
        first: What a gradient does to Θ after one step.
        second: What it does after two.
    """

    trace: Any
    determinant: Any
    first: Any
    second: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A convention with schedules, and with what stays constant.

    Attributes:
        convention: The rule.
        lr: ε_t.
        momentum: μ_t, also for a rule that is given the next one.
        dampening: τ, where the rule has it.
        weight_decay: λ.
        nesterov: Asked of rules where it is optional.
        nu: ν, where the rule has it.
        lr0: ε_0.
        weight_decay_mode: How λ acts; None for the rule's own way.
    """

    convention: Convention
    lr: Schedule
    momentum: Schedule
    dampening: Any = 0
    weight_decay: Any = 0
    nesterov: bool = False
    nu: Any = None
    lr0: Any = None
    weight_decay_mode: WeightDecayMode | None = None

    def hyperparameters(self, t: int) -> Hyperparameters:
        """Return what step t is run with."""
        row = self.convention
        return Hyperparameters(
            lr=self.lr(t),
            momentum=self.momentum(t + 1 if row.momentum == "next" else t),
            last_momentum=self.momentum(t - 1) if row.momentum == "previous" else None,
            dampening=self.dampening if row.gain == "1-dampening" else 0,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            nu=self.nu,
            lr0=self.lr0,
            weight_decay_mode=self.weight_decay_mode,
        )

    def look_ahead(self, t: int) -> Any:
        """Return w such that the gradient of step t is taken at Θ = p + w * b."""
        return look_ahead_weight(self.convention, self.hyperparameters(t))

    def step(self, t: int, *, first: bool = False) -> StepMap:
        """Return step t; `first` if the buffer has seen no gradient yet."""
        c = coefficients(self.convention, self.hyperparameters(t), first=first)
        return _step_map(c, self.look_ahead(t + 1), first=first)

    def path(self, theta: Any, gradients: list[Any], *, b: Any = None) -> Iterator[Any]:
        """Yield Θ after each step from Θ = `theta` and the buffer `b`, None for none yet."""
        begun = b is not None
        b = b if begun else 0
        for t, g in enumerate(gradients):
            c = coefficients(self.convention, self.hyperparameters(t), first=not begun)
            m = _step_map(c, self.look_ahead(t + 1), first=not begun)
            begun |= c.buffer == "first"
            theta, b = m.a11 * theta + m.a12 * b + m.b1 * g, m.a21 * theta + m.a22 * b + m.b2 * g
            yield theta


def _step_map(c: Coefficients, look_ahead: Any, *, first: bool) -> StepMap:
    retain = 0 if first else c.retain
    b1 = c.step * (c.buffer_weight * c.gain + c.gradient_weight)
    a11, a12 = c.keep + b1 * c.coupled_decay, c.step * c.buffer_weight * retain
    a21, a22, b2 = c.gain * c.coupled_decay, retain, c.gain
    # Where θ is stored, the next gradient is taken at θ' + w' b'.
    return StepMap(
        a11 + look_ahead * a21,
        a12 + look_ahead * a22,
        a21,
        a22,
        b1 + look_ahead * b2,
        b2,
    )


def responses(run: Run, start: int, count: int) -> Iterator[Any]:
    """Yield what a gradient in step `start` does to Θ after 1, 2, ... `count` steps."""
    m = run.step(start)
    x1, x2 = m.b1, m.b2
    for t in range(start + 1, start + count + 1):
        yield x1
        m = run.step(t)
        x1, x2 = m.a11 * x1 + m.a12 * x2, m.a21 * x1 + m.a22 * x2
