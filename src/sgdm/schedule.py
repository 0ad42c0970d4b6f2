"""Momentum schedules: functions t -> μ_t, and the scheduler that writes them into the groups.

The μ_t here is the method's own: `MomentumScheduler` hands step t the μ_t, or the μ_{t+1}, that its
convention asks for.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sgdm.errors import InvalidTypeError, InvalidValueError
from sgdm.frameworks import get_convention

__all__ = [
    "MomentumScheduler",
    "demon",
    "nesterov",
    "strongly_convex",
    "su_boyd_candes",
    "sutskever",
]

Schedule = Callable[[int], float]


class _Grouped(Protocol):
    """What a scheduler needs of an optimizer."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...


class MomentumScheduler:
    """Writes the momentum that the coming step needs into every group.

    For a convention whose step t is given μ_t that is function(t); for "nag", "bengio" and
    "bengio-lr-outside", whose step t is given μ_{t+1}, it is function(t + 1). So one function
    drives equivalent conventions along one trajectory.

    Args:
        optimizer: A `sgdm.SGD`, or any optimizer whose groups have a `momentum`.
        function: t -> μ_t >= 0, for t = 0, 1, 2, ...; or a list of them, one a group.

    Raises:
        InvalidTypeError: If the groups have no momentum, or `function` is not callable.
        InvalidValueError: If there are not as many functions as groups, or one returns a value
            that is not finite or below 0.

    Example:
        >>> import torch, sgdm
        >>> from sgdm.schedule import MomentumScheduler, su_boyd_candes
        >>> p = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = sgdm.SGD([p], lr=0.1, convention="nag")
        >>> scheduler = MomentumScheduler(optimizer, su_boyd_candes())
        >>> optimizer.param_groups[0]["momentum"]
        0.25
        >>> scheduler.step()  # after each optimizer.step()
        >>> optimizer.param_groups[0]["momentum"]
        0.4
    """

    def __init__(self, optimizer: _Grouped, function: Schedule | Sequence[Schedule]) -> None:
        self._optimizer = optimizer
        groups = optimizer.param_groups
        self._for_all = function if callable(function) else None
        functions = [function] * len(groups) if callable(function) else list(function)
        if len(functions) != len(groups):
            raise InvalidValueError.of(
                "function",
                f"one function, or one for each of the {len(groups)} groups",
                f"{len(functions)} functions",
                "give as many as there are groups",
            )
        for group, each in zip(groups, functions, strict=True):
            if "momentum" not in group:
                raise InvalidTypeError.of(
                    "optimizer", "one whose groups have a momentum", optimizer, "use sgdm.SGD"
                )
            if not callable(each):
                raise InvalidTypeError.of(
                    "function", "callable as function(t)", each, "see sgdm.schedule for some"
                )
        self._functions = functions
        self._t = 0
        self._write()

    def step(self) -> None:
        """Move on to the next step's momentum; call it after each `optimizer.step()`."""
        self._t += 1
        self._write()

    def state_dict(self) -> dict[str, int]:
        """Return the step index; the functions are not part of it."""
        return {"t": self._t}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on from a saved step index, and write its momentum."""
        self._t = state_dict["t"]
        self._write()

    def _write(self) -> None:
        values: list[float] = []
        groups = self._optimizer.param_groups
        if self._for_all is not None:  # groups added since are driven too
            self._functions = [self._for_all] * len(groups)
        if len(self._functions) != len(groups):
            raise InvalidValueError.of(
                "function",
                f"one function, or one for each of the {len(groups)} groups",
                f"{len(self._functions)} functions",
                "make a new MomentumScheduler after add_param_group",
            )
        for group, function in zip(groups, self._functions, strict=True):
            ahead = get_convention(group.get("convention", "torch")).momentum == "next"
            value = function(self._t + ahead)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidValueError.of(
                    f"function({self._t + ahead})",
                    "a finite number >= 0",
                    value,
                    "a momentum outside that range makes no step",
                )
            values.append(value)
        for group, value in zip(groups, values, strict=True):
            group["momentum"] = value


def nesterov() -> Schedule:
    """Nesterov's sequence of 1983, FISTA's: μ_{t+1} = (a_t - 1)/a_{t+1}.

    a_0 = 1, a_{t+1} = (1 + sqrt(1 + 4 a_t²))/2; μ_0 = 0, on which nothing depends.

    Example:
        >>> from sgdm.schedule import nesterov
        >>> [round(nesterov()(t), 4) for t in range(5)]
        [0.0, 0.0, 0.2818, 0.434, 0.5311]

    Reference:
        Beck and Teboulle 2009, A fast iterative shrinkage-thresholding algorithm, eq. (4.2).
    """
    a = [1.0]

    def momentum(t: int) -> float:
        while len(a) <= t:
            a.append((1 + math.sqrt(1 + 4 * a[-1] ** 2)) / 2)
        return (a[t - 1] - 1) / a[t] if t > 0 else 0.0

    return momentum


def su_boyd_candes() -> Schedule:
    """μ_t = t/(t + 3), whose limit is the differential equation x'' + (3/t)x' + ∇f = 0.

    Example:
        >>> from sgdm.schedule import su_boyd_candes
        >>> su_boyd_candes()(9)
        0.75

    Reference:
        Su, Boyd, Candès 2016, A differential equation for modeling Nesterov's method, eq. (2).
    """
    return lambda t: t / (t + 3)


def sutskever(mu_max: float) -> Schedule:
    """μ_t = min(1 - 2^(-1 - log2(floor(t/250) + 1)), mu_max): 0.5, 0.75, 0.833, ...

    Args:
        mu_max: The cap, in [0, 1).

    Raises:
        InvalidValueError: If it is out of range.

    Example:
        >>> from sgdm.schedule import sutskever
        >>> [sutskever(0.99)(t) for t in (0, 250, 750)]
        [0.5, 0.75, 0.875]

    Reference:
        Sutskever et al. 2013, eq. (5).
    """
    _check_factor("mu_max", mu_max)
    return lambda t: min(1 - 0.5 / (t // 250 + 1), mu_max)


def strongly_convex(condition_number: float) -> Schedule:
    """μ = (sqrt(κ) - 1)/(sqrt(κ) + 1), constant: for curvatures in a ratio of κ.

    Args:
        condition_number: κ >= 1, the largest over the smallest curvature.

    Raises:
        InvalidValueError: If it is out of range.

    Example:
        >>> from sgdm.schedule import strongly_convex
        >>> round(strongly_convex(100)(0), 4)
        0.8182

    Reference:
        Nesterov 2004, Introductory lectures on convex optimization, scheme (2.2.11).
    """
    if not (math.isfinite(condition_number) and condition_number >= 1):
        raise InvalidValueError.of(
            "condition_number", "a finite number >= 1", condition_number, "1 is a round bowl"
        )
    root = math.sqrt(condition_number)
    return lambda _: (root - 1) / (root + 1)


def demon(momentum: float, steps: int) -> Schedule:
    """μ_t = μ(1 - t/T)/((1 - μ) + μ(1 - t/T)): decays to 0 at T, and stays there.

    Args:
        momentum: μ, the value at t = 0, in [0, 1).
        steps: T > 0, in optimizer steps.

    Raises:
        InvalidValueError: If either is out of range.

    Example:
        >>> from sgdm.schedule import demon
        >>> [round(demon(0.9, 100)(t), 4) for t in (0, 50, 100)]
        [0.9, 0.8182, 0.0]

    Reference:
        Chen, Wolfe, Li, Kyrillidis 2022, Demon: improved neural network training with momentum
        decay, eq. (1).
    """
    _check_factor("momentum", momentum)
    if not 0 < steps < math.inf:
        raise InvalidValueError.of("steps", "> 0", steps, "it is when the momentum reaches 0")

    def value(t: int) -> float:
        left = momentum * max(0.0, 1 - t / steps)
        return left / ((1 - momentum) + left)

    return value


def _check_factor(name: str, value: float) -> None:
    if not (math.isfinite(value) and 0 <= value < 1):
        raise InvalidValueError.of(name, "in [0, 1)", value, "0.9 and 0.99 are usual")
