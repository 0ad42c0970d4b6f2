"""The seed's figure 4: one step of classical momentum (3') and of Nesterov's method (6)(7)."""

from dataclasses import dataclass

from sgdm.figures.descent import Descent, Point, check_moves
from sgdm.surfaces import get_surface

__all__ = ["CmVsNag", "Vectors", "cm_vs_nag"]

_CONDITION_NUMBER = 6.0
_START = (-9.0, 3.0)
_BEFORE = 2  # steps until the one that is shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Vectors:
    """One step as vectors.

    Attributes:
        ahead: θ + μ·v, where the momentum alone would go.
        seen_at: Where the gradient was taken.
        move: -ε·∇f there.
        end: The next θ.
    """

    ahead: Point
    seen_at: Point
    move: Point
    end: Point


@dataclass(frozen=True, kw_only=True, slots=True)
class CmVsNag:
    """Two steps from one θ with one v.

    Attributes:
        lr: ε.
        momentum: μ.
        condition_number: κ of the quadratic.
        theta: θ_t.
        classical: The step of classical momentum.
        nesterov: That of Nesterov's method.
    """

    lr: float
    momentum: float
    condition_number: float
    theta: Point
    classical: Vectors
    nesterov: Vectors


def cm_vs_nag(*, lr: float = 0.4, momentum: float = 0.8) -> CmVsNag:
    """Descend a quadratic for a while, and take the next step in both ways.

    Args:
        lr: ε.
        momentum: μ.

    Raises:
        InvalidValueError: If one is out of range.
        DivergedError: If the descent leaves the finite numbers.
    """
    check_moves(lr=lr, momentum=momentum)
    classical, nesterov = _descent(lr, momentum), _descent(lr, momentum)
    for _ in range(_BEFORE):
        classical.step()
        nesterov.step()
    nesterov.optimizer.param_groups[0]["nesterov"] = True
    theta = classical.point
    return CmVsNag(
        lr=lr,
        momentum=momentum,
        condition_number=_CONDITION_NUMBER,
        theta=theta,
        classical=_step(classical, lr, momentum),
        nesterov=_step(nesterov, lr, momentum),
    )


def _descent(lr: float, momentum: float) -> Descent:
    return Descent(
        get_surface("quadratic"),
        "sutskever",
        lr=lr,
        momentum=momentum,
        parameters={"condition_number": _CONDITION_NUMBER},
        start=_START,
    )


def _step(descent: Descent, lr: float, momentum: float) -> Vectors:
    (x, y), (v, w) = descent.point, descent.buffer
    descent.step()
    assert descent.seen_at is not None
    g, h = descent.gradient
    return Vectors(
        ahead=(x + momentum * v, y + momentum * w),
        seen_at=descent.seen_at,
        move=(-lr * g, -lr * h),
        end=descent.point,
    )
