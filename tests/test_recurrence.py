"""The recurrence equals the literal equations; its arithmetic is exact and asks for no type."""

from fractions import Fraction

import numpy as np
import pytest
import sympy

from cases import BENGIO, CASES, SUTSKEVER_NESTEROV, TORCH, TORCH_DAMPENED, TORCH_NESTEROV, Case
from reference import run
from sgdm import Convention, Hyperparameters, coefficients, get_convention
from sgdm.equations import step_equations
from sgdm.recurrence import (
    first_step_differs,
    iterate_weight,
    look_ahead_weight,
    needs_closure,
)

STEPS = 60


def drawn_schedules(rng, steps=STEPS):
    """Learning rates and momenta that change at every step."""
    lrs, momenta = rng.uniform(0.001, 0.3, steps + 2), rng.uniform(0.0, 0.99, steps + 2)
    return (lambda t: lrs[t]), (lambda t: momenta[t])


def drawn_gradient(rng, shape, steps=STEPS):
    """A gradient that depends on the point and on the step."""
    shifts = rng.standard_normal((steps, *shape))
    return lambda x, t: 0.5 * x + np.sin(x) + shifts[t]


def run_recurrence(case: Case, theta_0, gradient, eps, mu, present, *, row=None, **more):
    """Run the seven coefficients in numpy; return p and θ after every step."""
    row = row or case.row
    p, b = np.array(theta_0), None
    stored, iterates = [p], [p]
    theta = p
    for t, happens in enumerate(present):
        if happens:
            h = case.hyperparameters(t, eps, mu, **more)
            c = coefficients(row, h, first=b is None)
            old = np.zeros_like(p) if b is None else b
            point = p + look_ahead_weight(row, h) * old
            d = gradient(point, t) + c.coupled_decay * point
            b = c.retain * old * (c.buffer != "first") + c.gain * d
            p = c.keep * point + c.step * (c.buffer_weight * b + c.gradient_weight * d)
            theta = p - iterate_weight(row, h) * b
        stored.append(p)
        iterates.append(theta)
    return np.stack(stored), np.stack(iterates)


def relative_distance(a, b):
    return np.abs(a - b).max() / max(1.0, np.abs(b).max())


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_recurrence_is_the_literal_equation(case, missing, seed):
    rng = np.random.default_rng(seed)
    eps, mu = drawn_schedules(rng)
    gradient = drawn_gradient(rng, (5,))
    present = rng.random(STEPS) >= missing
    theta_0 = rng.standard_normal(5)
    expected, expected_iterates, _ = run(case.twin, theta_0, gradient, eps, mu, present)
    stored, iterates = run_recurrence(case, theta_0, gradient, eps, mu, present)
    assert relative_distance(stored, expected) < 1e-12
    assert relative_distance(iterates, expected_iterates) < 1e-12


@pytest.mark.parametrize("case", CASES, ids=str)
def test_coupled_decay_is_the_gradient_of_the_penalty(case, seed):
    rng = np.random.default_rng(seed)
    eps, mu = drawn_schedules(rng)
    gradient = drawn_gradient(rng, (5,))
    decay = 0.05
    expected, _, _ = run(
        case.twin,
        np.ones(5),
        lambda x, t: gradient(x, t) + decay * x,
        eps,
        mu,
        [True] * STEPS,
    )
    stored, _ = run_recurrence(
        case, np.ones(5), gradient, eps, mu, [True] * STEPS, weight_decay=decay
    )
    assert relative_distance(stored, expected) < 1e-12


# Where a published line is about the buffer alone it can be evaluated as it stands.
EVALUATED = [case for case in CASES if case is not SUTSKEVER_NESTEROV]


@pytest.mark.parametrize("case", EVALUATED, ids=str)
def test_the_published_lines_of_a_row_are_its_rule(case, seed):
    """The text in the table is run as a program and compared with the literal reference."""
    rng = np.random.default_rng(seed)
    eps, mu = drawn_schedules(rng)
    gradient = drawn_gradient(rng, (3,))
    lines = [line for line in case.row.equations if not line.startswith("Nesterov:")]
    if case.options.get("nesterov"):
        lines[-1] = case.row.equations[-1].removeprefix("Nesterov: ")
    program = "\n".join(
        line.replace("·", "*").replace("μ_{t+1}", "mu_next").replace("'", "_new") for line in lines
    )
    theta_0 = rng.standard_normal(3)
    names = {
        "θ": theta_0,
        "Θ": theta_0,
        "y": theta_0,
        "v": 0.0,
        "τ": case.options.get("dampening", 0.0),
    }
    expected, _, _ = run(case.twin, theta_0, gradient, eps, mu, [True] * STEPS)
    stored = "y" if case.convention == "nag" else ("Θ" if "Θ" in program else "θ")
    for t in range(STEPS):
        names |= {"ε": eps(t), "μ": mu(t), "μ_t": mu(t), "mu_next": mu(t + 1)}
        names["d"] = gradient(names[stored], t)
        if t == 0 and case is TORCH_DAMPENED:
            names["τ"] = 0.0
        exec(program, {}, names)  # noqa: S102 - our own table
        names["τ"] = case.options.get("dampening", 0.0)
        assert relative_distance(names[stored], expected[t + 1]) < 1e-12


def test_fractions_stay_exact():
    h = Hyperparameters(
        lr=Fraction(1, 10),
        momentum=Fraction(9, 10),
        dampening=Fraction(1, 3),
        weight_decay=Fraction(1, 100),
        weight_decay_mode="lr/lr0",
        lr0=Fraction(1, 5),
    )
    c = coefficients(get_convention("torch"), h, first=False)
    assert c.gain == Fraction(2, 3)
    assert c.keep == 1 - Fraction(1, 2) * Fraction(1, 100)
    assert isinstance(c.step, Fraction)


def test_symbols_pass_through():
    lr, momentum = sympy.symbols("lr momentum")
    h = Hyperparameters(lr=lr, momentum=momentum)
    c = coefficients(get_convention("bengio"), h, first=False)
    assert (c.retain, c.gain, c.gradient_weight) == (momentum, -lr * momentum, -lr)


@pytest.mark.parametrize(
    ("mode", "keep"),
    [("lr", 1 - 0.1 * 0.02), ("lr/lr0", 1 - 0.1 / 0.4 * 0.02), ("absolute", 1 - 0.02)],
)
def test_decoupled_decay_keeps_a_part_of_the_parameter(mode, keep):
    h = Hyperparameters(lr=0.1, weight_decay=0.02, weight_decay_mode=mode, lr0=0.4)
    c = coefficients(get_convention("caffe"), h, first=False)
    assert c.keep == keep
    assert c.coupled_decay == 0


@pytest.mark.parametrize("mode", ["lr", "lr/lr0", "absolute"])
def test_nothing_decays_decoupled_at_lr_zero(mode):
    h = Hyperparameters(lr=0.0, weight_decay=0.5, weight_decay_mode=mode, lr0=0.4)
    assert coefficients(get_convention("torch"), h, first=False).keep == 1


def test_momentum_zero_freezes_or_writes():
    h = Hyperparameters(lr=0.1, momentum=0)
    torch_row, caffe = get_convention("torch"), get_convention("caffe")
    assert coefficients(torch_row, h, first=True).buffer == "none"
    frozen = coefficients(torch_row, h, first=False)
    assert (frozen.buffer, frozen.retain, frozen.gain) == ("frozen", 1, 0)
    assert (frozen.gradient_weight, frozen.step) == (1, -0.1)
    assert coefficients(caffe, h, first=True).buffer == "first"
    assert coefficients(caffe, h, first=False).buffer == "running"


def test_the_first_step_differs_only_by_dampening():
    for case in CASES:
        h = case.hyperparameters(0, lambda _: 0.1, lambda _: 0.9)
        assert first_step_differs(case.row, h) == (case is TORCH_DAMPENED)


def test_only_sutskever_with_nesterov_needs_a_closure():
    for case in CASES:
        h = case.hyperparameters(0, lambda _: 0.1, lambda _: 0.9)
        assert needs_closure(case.row, h) == case.needs_closure


def test_the_look_ahead_of_any_rule_that_stores_the_iterate(seed):
    """Sign and place of the learning rate do not matter: a user's row looks ahead rightly."""
    rng = np.random.default_rng(seed)
    gradient = drawn_gradient(rng, (4,))
    mu = drawn_schedules(rng)[1]
    eps = lambda t: 0.05  # noqa: E731 - the conventions agree while lr is constant
    expected, _, _ = run(SUTSKEVER_NESTEROV.twin, np.ones(4), gradient, eps, mu, [True] * STEPS)
    for lr in ("inside", "outside"):
        for sign in ("gradient", "step"):
            row = Convention(
                name="drawn", title="", lr=lr, sign=sign, nesterov="always", stores="iterate"
            )
            stored, _ = run_recurrence(
                TORCH, np.ones(4), gradient, eps, mu, [True] * STEPS, row=row
            )
            assert relative_distance(stored, expected) < 1e-12


@pytest.mark.parametrize(
    ("case", "lines"),
    [
        (TORCH, ("d = g + λ·θ", "b = μ·b + (1 - τ)·d", "θ = θ - ε·b")),
        (TORCH_NESTEROV, ("d = g + λ·Θ", "b = μ·b + (1 - τ)·d", "Θ = Θ - ε·(d + μ·b)")),
        (
            SUTSKEVER_NESTEROV,
            ("Θ = θ + μ·b, where g is taken", "d = g + λ·Θ", "b = μ·b - ε·d", "θ = Θ - ε·d"),
        ),
        (BENGIO, ("d = g + λ·Θ", "b = μ_{t+1}·b - ε·μ_{t+1}·d", "Θ = Θ - ε·d + b")),
    ],
    ids=str,
)
def test_the_printed_equations(case, lines):
    assert step_equations(case.row, nesterov=case.options.get("nesterov", False)) == lines


def test_the_printed_first_step():
    assert step_equations(get_convention("torch"), first=True)[1] == "b = d"
    assert step_equations(get_convention("negated"), first=True)[1] == "b = -d"
