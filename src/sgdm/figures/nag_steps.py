"""The seed's figure 3: the two steps of Nesterov's method, (4) to θ and (5) to y."""

from dataclasses import dataclass

from sgdm.figures.descent import Descent, Point, check_moves, check_steps
from sgdm.surfaces import get_surface

__all__ = ["NagSteps", "nag_steps"]

_CONDITION_NUMBER = 6.0
_START = (-9.0, 3.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class NagSteps:
    """A descent of a quadratic by "nag", in both of its sequences.

    Attributes:
        lr: ε.
        momentum: μ.
        condition_number: κ of the quadratic.
        theta: θ_0, θ_1, ..., which (4) reaches from y by a gradient step.
        y: y_0 = θ_0, y_1, ..., which (5) reaches from θ by a momentum step.
    """

    lr: float
    momentum: float
    condition_number: float
    theta: tuple[Point, ...]
    y: tuple[Point, ...]


def nag_steps(*, lr: float = 0.6, momentum: float = 0.75, steps: int = 4) -> NagSteps:
    """Descend by equations (4) and (5).

    Args:
        lr: ε.
        momentum: μ.
        steps: How many.

    Raises:
        InvalidValueError: If one is out of range.
        DivergedError: If the descent leaves the finite numbers.
    """
    check_steps(steps)
    check_moves(lr=lr, momentum=momentum)
    descent = Descent(
        get_surface("quadratic"),
        "nag",
        lr=lr,
        momentum=momentum,
        parameters={"condition_number": _CONDITION_NUMBER},
        start=_START,
    )
    theta, y = [descent.point], [descent.point]
    for _ in range(steps):
        descent.step()
        theta.append(descent.iterate)
        y.append(descent.point)
    return NagSteps(
        lr=lr,
        momentum=momentum,
        condition_number=_CONDITION_NUMBER,
        theta=tuple(theta),
        y=tuple(y),
    )
