"""The claims of the seed text: where each holds, where it fails, and by how much.

`docs/seed.md` maps every equation to the tests here.
"""

import numpy as np
import pytest
import torch

import sgdm
from reference import (
    caffe_nesterov,
    dampened,
    equation_1,
    equation_2,
    equation_3,
    equation_3_prime,
    equation_8,
    equations_4_5,
    equations_6_7,
    equations_9_10,
    run,
    torch_nesterov,
)

STEPS = 80
SAME = 1e-12
# Schedules here move lr and momentum by tens of percents; what differs, differs by far more.
DIFFERENT = 1e-3


class Draw:
    """A drawn problem: gradients, schedules, and which steps happen."""

    def __init__(self, seed: int, *, missing: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        self.lrs = rng.uniform(0.01, 0.2, STEPS + 2)
        self.momenta = rng.uniform(0.3, 0.95, STEPS + 2)
        shifts = rng.standard_normal((STEPS, 4))
        self.gradient = lambda x, t: 0.3 * x + np.sin(x) + shifts[t]
        self.theta_0 = rng.standard_normal(4)
        self.present = rng.random(STEPS) >= missing

    def run(self, method, *, lr_moves: bool, momentum_moves: bool):
        """Return the stored parameters and the iterates under the schedules asked for."""
        eps = (lambda t: self.lrs[t]) if lr_moves else (lambda t: 0.1)
        mu = (lambda t: self.momenta[t]) if momentum_moves else (lambda t: 0.9)
        stored, iterates, _ = run(method, self.theta_0, self.gradient, eps, mu, self.present)
        return stored, iterates


REGIMES = [(lr, momentum) for lr in (False, True) for momentum in (False, True)]

# (claim, one method, the other, holds while lr moves, holds while momentum moves)
CLAIMS = [
    ("(1) = (2)", equation_1, equation_2, True, True),
    ("(1) = (3)", equation_1, equation_3, False, True),
    ("(3) = (3')", equation_3, equation_3_prime, True, True),
    ("(1) = (3')", equation_1, equation_3_prime, False, True),
    ("(4)(5) = (8)", equations_4_5, equation_8, True, True),
    ("(8) = (9)(10)", equation_8, equations_9_10, False, True),
    ("(9)(10) = torch's nesterov", equations_9_10, torch_nesterov(), True, False),
    ("(8) = torch's nesterov", equation_8, torch_nesterov(), False, False),
    ("(8) = Caffe's nesterov", equation_8, caffe_nesterov(), True, False),
    ("Caffe's nesterov = torch's", caffe_nesterov(), torch_nesterov(), False, True),
]


@pytest.mark.parametrize(
    ("one", "other", "free_lr", "free_momentum"),
    [claim[1:] for claim in CLAIMS],
    ids=[claim[0] for claim in CLAIMS],
)
@pytest.mark.parametrize(("lr_moves", "momentum_moves"), REGIMES)
def test_where_two_equations_are_one_method(
    one, other, free_lr, free_momentum, lr_moves, momentum_moves, seed
):
    draw = Draw(seed, missing=0.2)
    a, _ = draw.run(one, lr_moves=lr_moves, momentum_moves=momentum_moves)
    b, _ = draw.run(other, lr_moves=lr_moves, momentum_moves=momentum_moves)
    gap = np.abs(a - b).max()
    if (free_lr or not lr_moves) and (free_momentum or not momentum_moves):
        assert gap < SAME
    else:
        assert gap > DIFFERENT


@pytest.mark.parametrize(("lr_moves", "momentum_moves"), REGIMES)
def test_sutskevers_iterate_is_nags(lr_moves, momentum_moves, seed):
    """(6)(7) and (4)(5) have one θ, always; (6)(7) stores it, (4)(5) and (8) the point ahead."""
    draw = Draw(seed)
    regime = {"lr_moves": lr_moves, "momentum_moves": momentum_moves}
    _, sutskever = draw.run(equations_6_7, **regime)
    _, nag = draw.run(equations_4_5, **regime)
    _, bengio = draw.run(equation_8, **regime)
    assert np.abs(sutskever - nag).max() < SAME
    assert np.abs(sutskever - bengio).max() < SAME


def test_a_missing_gradient_parts_sutskever_from_nag_only_if_the_momentum_moved(seed):
    """(6)(7) looks ahead with the μ of the step that happens, (4)(5) with the skipped one's."""
    draw = Draw(seed, missing=0.3)
    for momentum_moves in (False, True):
        regime = {"lr_moves": True, "momentum_moves": momentum_moves}
        gap = np.abs(draw.run(equations_6_7, **regime)[1] - draw.run(equations_4_5, **regime)[1])
        assert (gap.max() > DIFFERENT) == momentum_moves


def test_zero_velocity_is_sufficient_and_not_necessary(seed):
    """(1) = (2) needs v_0 = -v_0, (1) = (3) needs v_0 = ε v_0: any such start will do."""
    draw = Draw(seed)
    v_0 = np.array([1.0, -2.0, 0.5, 3.0])
    starts = {equation_1: v_0, equation_2: -v_0, equation_3: 0.1 * v_0}
    runs = []
    for method, start in starts.items():
        started = method._replace(start=lambda theta, v=start: (theta, v))
        runs.append(draw.run(started, lr_moves=False, momentum_moves=True)[0])
    assert np.abs(runs[0] - runs[1]).max() < SAME
    assert np.abs(runs[0] - runs[2]).max() < SAME


def test_velocity_of_3_is_eps_times_that_of_1(seed):
    draw = Draw(seed)
    arguments = (draw.theta_0, draw.gradient, lambda t: 0.1, lambda t: 0.9, draw.present)
    for state_1, state_3 in zip(
        run(equation_1, *arguments)[2], run(equation_3, *arguments)[2], strict=True
    ):
        assert np.allclose(state_3[1], 0.1 * state_1[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mu", [0.5, 0.9])
def test_the_gap_after_an_lr_drop(mu, seed):
    """With the same gradients, a drop ε_1 -> ε_2 leaves (1) and (3) apart by μ/(1-μ)(ε_1-ε_2)v.

    The gap of the velocities fades like μ^n; that of the parameters grows to this and stays.
    """
    rng = np.random.default_rng(seed)
    drop, steps, eps_1, eps_2 = 30, 400, 0.1, 0.01
    gradients = rng.standard_normal((steps, 3))
    arguments = (
        np.zeros(3),
        lambda x, t: gradients[t],
        lambda t: eps_1 if t < drop else eps_2,
        lambda t: mu,
        [True] * steps,
    )
    theta_1, _, states_1 = run(equation_1, *arguments)
    theta_3, _, states_3 = run(equation_3, *arguments)
    v = states_1[drop][1]
    assert np.abs(theta_1[drop] - theta_3[drop]).max() < 1e-13

    for n in (1, 2, 5, 20):
        velocity_gap = states_3[drop + n][1] - eps_2 * states_1[drop + n][1]
        assert np.allclose(velocity_gap, mu**n * (eps_1 - eps_2) * v, rtol=1e-10, atol=1e-14)
        parameter_gap = theta_1[drop + n] - theta_3[drop + n]
        expected = mu * (1 - mu**n) / (1 - mu) * (eps_1 - eps_2) * v
        assert np.allclose(parameter_gap, expected, rtol=1e-10, atol=1e-13)
    assert np.allclose(
        theta_1[-1] - theta_3[-1], mu / (1 - mu) * (eps_1 - eps_2) * v, rtol=1e-9, atol=1e-12
    )


def test_the_first_step_after_the_drop_is_the_seeds(seed):
    """The seed's comparison of θ_{t+1} in (1) and (3), with its index mended: ε_2 acts at t."""
    draw = Draw(seed)
    eps_1, eps_2, mu, t = 0.1, 0.01, 0.9, 10
    arguments = (
        draw.theta_0,
        draw.gradient,
        lambda s: eps_1 if s < t else eps_2,
        lambda s: mu,
        draw.present,
    )
    theta, _, states = run(equation_1, *arguments)
    v, g = states[t][1], draw.gradient(theta[t], t)
    assert np.allclose(theta[t + 1], theta[t] - eps_2 * mu * v - eps_2 * g, atol=1e-13)
    theta_3, _, _ = run(equation_3, *arguments)
    assert np.allclose(theta_3[t + 1], theta[t] - eps_1 * mu * v - eps_2 * g, atol=1e-13)


def test_dampening_is_one_minus_tau_after_an_undamped_first_step(seed):
    """From the second step on τ is a smaller lr; the first gradient weighs 1/(1-τ) times more."""
    draw = Draw(seed)
    tau = 0.3
    gradients = [draw.gradient(draw.theta_0, t) for t in range(STEPS)]
    eps, mu = (lambda t: 0.1), (lambda t: 0.8)
    arguments = (draw.theta_0, lambda x, t: gradients[t], eps, mu, draw.present)
    _, _, states = run(dampened(tau), *arguments)
    _, _, plain = run(equation_1, *arguments)
    extra = tau * 0.8 ** np.arange(STEPS)[:, None] * gradients[0]
    velocities = np.stack([state[1] for state in states[1:]])
    expected = (1 - tau) * np.stack([state[1] for state in plain[1:]]) + extra
    assert np.allclose(velocities, expected, atol=1e-13)


@pytest.mark.parametrize("tau", [0.0, 0.3])
@pytest.mark.parametrize("cls", [torch.optim.SGD, sgdm.SGD])
def test_the_seeds_dampening_formula_would_delete_the_gradient(tau, cls):
    """v' = μ v + dampening · d would, with the default 0, hardly move; torch has 1 - dampening."""
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = cls([p], lr=1.0, momentum=0.9, dampening=tau)
    v, as_printed, position = 1.0, 1.0, 0.0
    for t in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
        v = 0.9 * v + (1 - tau) if t else 1.0
        as_printed = 0.9 * as_printed + tau if t else 1.0
        position -= v
        assert p.item() == pytest.approx(position, rel=1e-15)
    assert abs(v - as_printed) > 0.5


def test_nag_without_momentum_is_gradient_descent(seed):
    draw = Draw(seed)
    nag, _, _ = run(
        equations_4_5, draw.theta_0, draw.gradient, lambda t: 0.1, lambda t: 0.0, draw.present
    )
    x = draw.theta_0
    for t in range(STEPS):
        x = x - 0.1 * draw.gradient(x, t)
        assert np.abs(nag[t + 1] - x).max() < SAME


def test_v_of_equation_9_is_no_state(seed):
    """The seed calls V_{t+1} the v_{t+1} of (3'): V = μ_{t+1} v + d, and v is what is carried."""
    draw = Draw(seed)
    arguments = (draw.theta_0, draw.gradient, lambda t: 0.1, lambda t: 0.9, draw.present)
    stored, _, states = run(equations_9_10, *arguments)
    big_v = (stored[:-1] - stored[1:]) / 0.1
    carried = np.stack([state[1] for state in states])
    gradients = np.stack([draw.gradient(stored[t], t) for t in range(STEPS)])
    assert np.allclose(big_v, 0.9 * carried[1:] + gradients, atol=1e-10)
    recursion_in_big_v = 0.9 * (0.9 * big_v[:-1] + gradients[1:]) + gradients[1:]
    assert np.abs(recursion_in_big_v - big_v[1:]).max() > DIFFERENT
