"""The seed's figure 1: polynomials fitted with and without the penalty λ/2·|θ|²."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sgdm.errors import InvalidValueError
from sgdm.optimizer import SGD
from sgdm.stability import best

__all__ = ["Fit", "Overfitting", "overfitting"]

_linalg: Any = torch.linalg  # which is typed in part

_POINTS = 11
_NOISE = 0.25
_SEED = 6
_LARGEST_DEGREE = 9  # beyond it a descent needs millions of steps
_CONVERGED = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """One polynomial.

    Attributes:
        weight_decay: λ.
        theta: Its coefficients, that of xⁱ at i.
        steps: How many steps of `sgdm.SGD` found them.
        train_error: The mean square of what is left at the points.
        true_error: Of the difference to the function behind them.
    """

    weight_decay: float
    theta: tuple[float, ...]
    steps: int
    train_error: float
    true_error: float

    def at(self, x: float) -> float:
        """Return the value at x."""
        return _values(torch.tensor([x], dtype=torch.float64), self.theta).item()


@dataclass(frozen=True, kw_only=True, slots=True)
class Overfitting:
    """The points, the function behind them, and two fits.

    Attributes:
        x: Where the points are, in [-1, 1].
        y: Their values: sin(πx) and noise.
        free: The fit without penalty.
        penalized: The fit with it.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    free: Fit
    penalized: Fit

    @staticmethod
    def truth(x: float) -> float:
        """Return the function behind the points."""
        return math.sin(math.pi * x)


def overfitting(*, weight_decay: float = 0.01, degree: int = 9) -> Overfitting:
    """Fit noisy points by `sgdm.SGD` with momentum, with and without `weight_decay`.

    Args:
        weight_decay: λ > 0 of the penalized fit.
        degree: Of the polynomials, 1 to 9.

    Raises:
        InvalidValueError: If one is out of range.
    """
    if not 1 <= degree <= _LARGEST_DEGREE:
        raise InvalidValueError.of(
            "degree", f"1 to {_LARGEST_DEGREE}", degree, f"there are {_POINTS} points"
        )
    if not 0 < weight_decay < math.inf:
        raise InvalidValueError.of(
            "weight_decay", "a finite number > 0", weight_decay, "the other fit has none"
        )
    x = torch.linspace(-1, 1, _POINTS, dtype=torch.float64)
    noise = torch.randn(
        _POINTS, dtype=torch.float64, generator=torch.Generator().manual_seed(_SEED)
    )
    y = torch.sin(torch.pi * x) + _NOISE * noise
    return Overfitting(
        x=tuple(map(float, x)),
        y=tuple(map(float, y)),
        free=_fit(x, y, degree, 0.0),
        penalized=_fit(x, y, degree, weight_decay),
    )


def _fit(x: Tensor, y: Tensor, degree: int, weight_decay: float) -> Fit:
    """Descend the mean square with the learning rate and momentum that are best for it."""
    powers = _powers(x, degree)
    matrix, target = powers.T @ powers / len(x), powers.T @ y / len(x)
    curvatures = [h + weight_decay for h in map(float, _linalg.eigvalsh(matrix))]
    largest = max(curvatures)
    tuned = best("torch", condition_number=largest / min(curvatures))
    theta = torch.nn.Parameter(torch.zeros(degree + 1, dtype=torch.float64))
    optimizer = SGD(
        [theta], lr=tuned.lr / largest, momentum=tuned.momentum, weight_decay=weight_decay
    )
    steps = math.ceil(math.log(_CONVERGED) / math.log(tuned.rate))
    for _ in range(steps):
        theta.grad = matrix @ theta.detach() - target
        optimizer.step()
    found = tuple(map(float, theta.detach()))
    dense = torch.linspace(-1, 1, 401, dtype=torch.float64)
    return Fit(
        weight_decay=weight_decay,
        theta=found,
        steps=steps,
        train_error=(_values(x, found) - y).square().mean().item(),
        true_error=(_values(dense, found) - torch.sin(torch.pi * dense)).square().mean().item(),
    )


def _values(x: Tensor, theta: tuple[float, ...]) -> Tensor:
    return _powers(x, len(theta) - 1) @ torch.tensor(theta, dtype=torch.float64)


def _powers(x: Tensor, degree: int) -> Tensor:
    return x[:, None] ** torch.arange(degree + 1)
