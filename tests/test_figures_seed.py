"""The numbers of the seed's four figures, beside its equations written down literally."""

import numpy as np
import pytest

from sgdm.errors import DivergedError, InvalidValueError
from sgdm.figures.cm_vs_nag import cm_vs_nag
from sgdm.figures.descent import Descent, descend
from sgdm.figures.local_minimum import local_minimum
from sgdm.figures.nag_steps import nag_steps
from sgdm.figures.overfitting import overfitting
from sgdm.surfaces import get_surface


@pytest.fixture(scope="module")
def fits():
    return overfitting()


@pytest.mark.parametrize("which", ["free", "penalized"])
def test_the_fits_are_those_of_least_squares(fits, which):
    fit = getattr(fits, which)
    powers = np.vander(fits.x, 10, increasing=True)
    # The mean square with λ·|θ|² as more rows: the same minimum.
    rows = np.vstack([powers, np.sqrt(len(fits.x) * fit.weight_decay) * np.eye(10)])
    exact = np.linalg.lstsq(rows, np.append(fits.y, np.zeros(10)), rcond=None)[0]
    assert fit.theta == pytest.approx(exact, rel=1e-4, abs=1e-4 * max(abs(exact)))
    values = powers @ fit.theta
    assert fit.train_error == pytest.approx(np.mean((values - fits.y) ** 2))
    assert [fit.at(x) for x in fits.x] == pytest.approx(values)


def test_the_penalty_makes_coefficients_small_and_the_curve_true(fits):
    free, penalized = fits.free, fits.penalized
    assert (free.weight_decay, penalized.weight_decay) == (0, 0.01)
    times = np.linalg.norm(free.theta) / np.linalg.norm(penalized.theta)
    assert round(times) == 77  # as docs/plots.md says
    assert free.train_error < penalized.train_error / 100
    assert free.true_error > 4 * penalized.true_error
    assert free.steps > 100 * penalized.steps
    dense = np.linspace(-1, 1, 401)
    off = [penalized.at(x) - fits.truth(x) for x in dense]
    assert penalized.true_error == pytest.approx(np.mean(np.square(off)))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"degree": 0}, "degree must be 1 to 9, got 0"),
        ({"degree": 10}, "degree must be 1 to 9, got 10"),
        ({"weight_decay": 0.0}, "weight_decay must be a finite number > 0, got 0.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be a finite number > 0, got nan"),
    ],
)
def test_fits_out_of_range_are_refused(options, text):
    with pytest.raises(InvalidValueError, match=text):
        overfitting(**options)


def test_plain_descent_stays_and_momentum_goes_through():
    found = local_minimum()
    gradient = get_surface("local-minimum").gradient
    theta, v, expected = -2.0, 0.0, [-2.0]
    for _ in range(120):
        v = found.momentum * v + gradient(theta, 0)[0]
        theta -= found.lr * v
        expected.append(theta)
    assert found.with_momentum == pytest.approx(expected, abs=1e-12)
    theta, expected = -2.0, [-2.0]
    for _ in range(120):
        theta -= found.lr * gradient(theta, 0)[0]
        expected.append(theta)
    assert found.plain == pytest.approx(expected, abs=1e-12)
    assert found.plain[-1] == pytest.approx(-1, abs=1e-3)
    assert max(found.plain) < -1
    assert found.with_momentum[-1] == pytest.approx(2, abs=1e-2)
    assert found.value(-1) == pytest.approx(-5 / 12)


def test_going_through_is_no_promise():
    """What docs/plots.md says: from the same start Nesterov's method stays."""
    surface = get_surface("local-minimum")
    path = descend(Descent(surface, "torch:nesterov", lr=0.02, momentum=0.9), 500)
    assert path[-1] == pytest.approx((-1, 0), abs=1e-6)


def test_the_steps_of_nag_are_equations_4_and_5():
    found = nag_steps()
    curvature = np.array([1 / found.condition_number, 1])
    theta, y = np.array(found.theta), np.array(found.y)
    assert found.theta[0] == found.y[0]
    assert len(found.theta) == len(found.y) == 5
    assert theta[1:] == pytest.approx(y[:-1] - found.lr * curvature * y[:-1], abs=1e-12)
    assert y[1:] == pytest.approx(theta[1:] + found.momentum * (theta[1:] - theta[:-1]), abs=1e-12)


def test_both_steps_are_the_seeds_equations():
    found = cm_vs_nag()
    curvature = np.array([1 / found.condition_number, 1])
    theta, momentum, lr = np.array(found.theta), found.momentum, found.lr
    v = (np.array(found.classical.ahead) - theta) / momentum
    assert found.classical.ahead == found.nesterov.ahead
    for step, at in (
        (found.classical, theta),  # (3')
        (found.nesterov, theta + momentum * v),  # (6)(7)
    ):
        move = -lr * curvature * at
        assert step.seen_at == pytest.approx(at, abs=1e-12)
        assert step.move == pytest.approx(move, abs=1e-12)
        assert step.end == pytest.approx(theta + momentum * v + move, abs=1e-12)
    # v is not just any vector: it is where (3') has come from the start.
    start, expected, end = np.array([-9.0, 3.0]), np.zeros(2), np.array([-9.0, 3.0])
    for _ in range(2):
        expected = momentum * expected - lr * curvature * end
        end = end + expected
    assert theta == pytest.approx(end)
    assert v == pytest.approx(expected)
    assert np.any(start != end)


@pytest.mark.parametrize("compute", [nag_steps, cm_vs_nag])
@pytest.mark.parametrize("name", ["lr", "momentum"])
def test_a_step_without_one_of_its_parts_is_refused(compute, name):
    with pytest.raises(InvalidValueError, match=f"{name} must be a finite number > 0, got 0.0"):
        compute(**{name: 0.0})


def test_no_steps_are_refused():
    for compute in (nag_steps, local_minimum):
        with pytest.raises(InvalidValueError, match="steps must be >= 1, got 0"):
            compute(steps=0)


@pytest.mark.parametrize("lr", [0.5, 1e200])
def test_a_descent_that_diverges_says_so(lr):
    with pytest.raises(DivergedError, match="torch on 'local-minimum' left the finite numbers"):
        local_minimum(lr=lr)
