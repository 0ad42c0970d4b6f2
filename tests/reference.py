"""Every published equation, literally: float64, out of place, one function an equation.

These are the slow twins that everything else is compared with. They share no code with the package.
A method is a `Literal`: it starts from θ_0, takes the gradient at `point(state, t)`, and moves with
`step`. Symbols are the seed's; `mu(t)` and `eps(t)` are schedules.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any
Schedule = Callable[[int], Any]


class Literal(NamedTuple):
    """One published method.

    start: θ_0 -> state
    point: (state, t, mu) -> where the gradient of step t is taken
    step: (state, gradient, t, eps, mu) -> state
    stored: state -> the parameter that an optimizer keeps
    iterate: state -> θ
    positions: which entries of the state are positions, not velocities
    """

    start: Callable[[Array], tuple[Any, ...]]
    point: Callable[..., Array]
    step: Callable[..., tuple[Any, ...]]
    stored: Callable[[tuple[Any, ...]], Array]
    iterate: Callable[[tuple[Any, ...]], Array]
    positions: tuple[int, ...] = (0,)


def _theta(state: tuple[Any, ...]) -> Array:
    return state[0]


def _velocity_method(step: Callable[..., tuple[Any, ...]]) -> Literal:
    """A method with state (θ, v), v_0 = 0, whose gradient is taken at θ."""
    return Literal(
        start=lambda theta: (theta, np.zeros_like(theta)),
        point=lambda state, t, mu: state[0],
        step=step,
        stored=_theta,
        iterate=_theta,
    )


def _equation_1(state, g, t, eps, mu):
    theta, v = state
    v = mu(t) * v + g
    theta = theta - eps(t) * v
    return theta, v


def _equation_2(state, g, t, eps, mu):
    theta, v = state
    v = mu(t) * v - g
    theta = theta + eps(t) * v
    return theta, v


def _equation_3(state, g, t, eps, mu):
    theta, v = state
    v = mu(t) * v + eps(t) * g
    theta = theta - v
    return theta, v


def _equation_3_prime(state, g, t, eps, mu):
    theta, v = state
    v = mu(t) * v - eps(t) * g
    theta = theta + v
    return theta, v


equation_1 = _velocity_method(_equation_1)
equation_2 = _velocity_method(_equation_2)
equation_3 = _velocity_method(_equation_3)
equation_3_prime = _velocity_method(_equation_3_prime)


def dampened(tau: float) -> Literal:
    """Section 1.2.1 as torch codes it: v = μ v + (1 - τ) g, but v = g the first time."""

    def step(state, g, t, eps, mu):
        theta, v = state
        v = g if v is None else mu(t) * v + (1 - tau) * g
        return theta - eps(t) * v, v

    return Literal(lambda theta: (theta, None), lambda state, t, mu: state[0], step, _theta, _theta)


def torch_nesterov() -> Literal:
    """torch.optim.SGD(nesterov=True): Θ = Θ - ε (g + μ v'), one μ for both factors."""

    def step(state, g, t, eps, mu):
        _, v, big_theta = state
        v = mu(t) * v + g
        return big_theta - eps(t) * g, v, big_theta - eps(t) * (g + mu(t) * v)

    return Literal(
        lambda theta: (theta, np.zeros_like(theta), theta),
        lambda state, t, mu: state[2],
        step,
        lambda state: state[2],
        _theta,
        positions=(0, 2),
    )


def caffe_nesterov() -> Literal:
    """Caffe's NesterovSolver: v' = μ v + ε g; Θ = Θ - ((1 + μ) v' - μ v)."""

    def step(state, g, t, eps, mu):
        _, v, big_theta = state
        new = mu(t) * v + eps(t) * g
        big_theta_new = big_theta - ((1 + mu(t)) * new - mu(t) * v)
        return big_theta - eps(t) * g, new, big_theta_new

    return torch_nesterov()._replace(step=step)


def _nag_step(state, g, t, eps, mu):
    theta, y = state
    theta_new = y - eps(t) * g  # (4)
    y_new = theta_new + mu(t + 1) * (theta_new - theta)  # (5)
    return theta_new, y_new


# y_0 = θ_0.
equations_4_5 = Literal(
    start=lambda theta: (theta, theta),
    point=lambda state, t, mu: state[1],
    step=_nag_step,
    stored=lambda state: state[1],
    iterate=_theta,
    positions=(0, 1),
)


def _sutskever_step(state, g, t, eps, mu):
    theta, v = state
    theta_new = theta + mu(t) * v - eps(t) * g  # (6)
    v_new = mu(t) * v - eps(t) * g  # (7)
    return theta_new, v_new


equations_6_7 = Literal(
    start=lambda theta: (theta, np.zeros_like(theta)),
    point=lambda state, t, mu: state[0] + mu(t) * state[1],
    step=_sutskever_step,
    stored=_theta,
    iterate=_theta,
)


# The third entry is the momentum that made this Θ: μ_t, unless gradients were missing in between.


def _equation_8(state, g, t, eps, mu):
    big_theta, v, mu_t = state
    big_theta_new = big_theta + mu(t + 1) * mu_t * v - mu(t + 1) * eps(t) * g - eps(t) * g
    v_new = mu_t * v - eps(t) * g
    return big_theta_new, v_new, mu(t + 1)


equation_8 = Literal(
    start=lambda theta: (theta, np.zeros_like(theta), 0.0),
    point=lambda state, t, mu: state[0],
    step=_equation_8,
    stored=_theta,
    iterate=lambda state: state[0] - state[2] * state[1],
)


def _equations_9_10(state, g, t, eps, mu):
    big_theta, v, mu_t, _ = state
    big_v = mu(t + 1) * (mu_t * v + g) + g  # (9)
    big_theta_new = big_theta - eps(t) * big_v  # (10)
    return big_theta_new, mu_t * v + g, mu(t + 1), big_theta - eps(t) * g


equations_9_10 = Literal(
    start=lambda theta: (theta, np.zeros_like(theta), 0.0, theta),
    point=lambda state, t, mu: state[0],
    step=_equations_9_10,
    stored=_theta,
    iterate=lambda state: state[3],
    positions=(0, 3),
)


def shrinking(method: Literal, kept: Schedule) -> Literal:
    """The method with decoupled decay: the point p of its gradient shrinks by kept(t) * p.

    The velocity is left alone, so every position moves by the same.
    """

    def step(state, g, t, eps, mu):
        shift = (kept(t) - 1) * method.point(state, t, mu)
        new = method.step(state, g, t, eps, mu)
        return tuple(x + shift if i in method.positions else x for i, x in enumerate(new))

    return method._replace(step=step)


def run(
    method: Literal,
    theta_0: Array,
    gradient: Callable[[Array, int], Array],
    eps: Schedule,
    mu: Schedule,
    present: Any,
) -> tuple[Array, Array, list[tuple[Any, ...]]]:
    """Run a method for len(present) steps; where `present[t]` is False step t does not happen.

    Returns the stored parameter after every step, θ after every step, and the states.
    """
    state = method.start(np.asarray(theta_0, dtype=np.float64))
    stored, iterates, states = [method.stored(state)], [method.iterate(state)], [state]
    for t, happens in enumerate(present):
        if happens:
            state = method.step(state, gradient(method.point(state, t, mu), t), t, eps, mu)
        stored.append(method.stored(state))
        iterates.append(method.iterate(state))
        states.append(state)
    return np.stack(stored), np.stack(iterates), states
