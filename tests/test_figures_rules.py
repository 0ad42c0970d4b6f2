"""The numbers of the figures that compare rules, beside other ways to get them."""

import math

import numpy as np
import pytest
import torch

import sgdm
from sgdm.errors import DivergedError, InvalidUseError, InvalidValueError
from sgdm.figures.descent import Descent, descend
from sgdm.figures.lr_drop import lr_drop
from sgdm.figures.spectrum import fastest, plain_descent, spectrum
from sgdm.figures.stability_map import largest_stable, stability_map
from sgdm.figures.trajectories import trajectories
from sgdm.stability import largest_lr
from sgdm.surfaces import get_surface

RUNNING = [
    (row, nesterov)
    for row in sgdm.list_conventions()
    for nesterov in (False, True)
    if row.runs and not (nesterov and row.nesterov == "never")
]


@pytest.fixture(scope="module")
def paths():
    return trajectories()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("panel", [0, 1, 2])
def test_the_paths_are_those_of_torch(paths, panel, nesterov):
    panel = paths.panels[panel]
    surface = get_surface(panel.surface)
    p = torch.nn.Parameter(torch.tensor(surface.start, dtype=torch.float64))
    optimizer = torch.optim.SGD(
        [p], lr=panel.lr, momentum=0.9, nesterov=nesterov, foreach=False, fused=False
    )
    path = [tuple(p.tolist())]
    for _ in range(paths.steps):
        gradient = surface.gradient(*p.tolist(), **panel.parameters)
        p.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        path.append(tuple(p.tolist()))
    assert panel.paths["torch:nesterov" if nesterov else "torch"] == tuple(path)


def test_what_the_default_trajectories_show(paths):
    assert [panel.surface for panel in paths.panels] == ["quadratic", "rosenbrock", "beale"]
    for panel in paths.panels:
        torch_path, caffe_path = (np.array(panel.paths[name]) for name in ("torch", "caffe"))
        assert torch_path == pytest.approx(caffe_path, abs=1e-9)
        minimum = get_surface(panel.surface).minimum
        assert math.dist(panel.paths["torch"][-1], minimum) < 0.2
        assert math.dist(panel.paths["torch:nesterov"][-1], minimum) < 0.2
        assert len(panel.paths["cntk"]) == paths.steps + 1
    assert math.dist(paths.panels[1].paths["cntk"][-1], (1, 1)) > 0.5  # ε(1-μ) is a tenth


def test_the_options_reach_the_rules():
    found = trajectories(
        conventions=("qhm", "torch", "sutskever:nesterov", "nag"),
        surface=("quadratic",),
        lr=0.3,
        momentum=0.5,
        nu=0.0,
        condition_number=5.0,
        steps=4,
    )
    (panel,) = found.panels
    assert panel.parameters == {"condition_number": 5.0}
    factors = [1 - 0.3 / 5, 1 - 0.3]  # ν = 0 is plain descent
    expected = [-9 * factors[0] ** 4, 2.5 * factors[1] ** 4]
    assert panel.paths["qhm"][-1] == pytest.approx(expected)
    assert panel.paths["torch"][-1] != pytest.approx(expected)
    # The one stores θ, the other Θ = θ + μ·v.
    theta = np.array(panel.paths["sutskever:nesterov"])
    ahead = np.array(panel.paths["nag"])
    assert ahead[1:] == pytest.approx(theta[1:] + 0.5 * (theta[1:] - theta[:-1]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"surface": ("hill",)}, "surface must be one of"),
        ({"conventions": ("cafe",)}, "convention must be the name of a convention"),
        ({"steps": 0}, "steps must be >= 1"),
        ({"lr": -1.0}, "lr must be a finite number >= 0"),
        ({"condition_number": 0.5}, "condition_number must be a finite number >= 1"),
        (
            {"condition_number": 9.0, "surface": ("beale",)},
            "condition_number must be None on beale",
        ),
        ({"nu": 0.7}, "nu must be None for torch, caffe"),
    ],
)
def test_paths_out_of_range_are_refused(options, text):
    with pytest.raises(InvalidValueError, match=text):
        trajectories(**options)


def test_a_path_that_diverges_names_its_rule():
    with pytest.raises(DivergedError, match="torch on 'rosenbrock' left the finite numbers"):
        trajectories(lr=1.0, surface=("rosenbrock",))


def test_a_descent_says_what_it_is_at():
    descent = Descent(get_surface("quadratic"), "nag", lr=0.3, momentum=0.5)
    assert descent.seen_at is None
    assert descent.buffer == (0, 0)
    assert descend(descent, 1)[0] == descent.seen_at == (-9, 2.5)
    assert descent.gradient == pytest.approx((-9 / 30, 2.5))
    assert descent.iterate == pytest.approx((-9 + 0.3 * 9 / 30, 2.5 - 0.3 * 2.5))


@pytest.fixture(scope="module")
def dropped():
    return lr_drop()


def literal_drop(found):
    """Equations (1) and (3), written down, each with the gradients of its own point."""
    curvature = np.array([1 / 30, 1])
    start = np.array([-9.0, 2.5])
    thetas, v = {1: start, 3: start}, {1: np.zeros(2), 3: np.zeros(2)}
    for t in range(len(found.gap)):
        lr = found.lr if t < found.drop else found.lr_after
        v[1] = found.momentum * v[1] + curvature * thetas[1]
        v[3] = found.momentum * v[3] + lr * curvature * thetas[3]
        thetas = {1: thetas[1] - lr * v[1], 3: thetas[3] - v[3]}
        yield np.linalg.norm(lr * v[1]), np.linalg.norm(v[3]), np.linalg.norm(thetas[1] - thetas[3])


def test_the_runs_are_equations_1_and_3(dropped):
    outside, inside, answered = zip(*literal_drop(dropped), strict=True)
    assert dropped.speed_outside == pytest.approx(outside)
    assert dropped.speed_inside == pytest.approx(inside)
    assert dropped.gap_answered == pytest.approx(answered, abs=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conventions": ("keras", "optax"), "lr_drop_factor": 3.0, "lr": 0.1, "steps": 40},
        {"conventions": ("ema", "cntk"), "momentum": 0.6, "drop": 5},
    ],
)
def test_the_gaps_are_the_predicted_ones_for_the_same_gradients(options):
    found = lr_drop(**options)
    n = found.drop
    assert found.gap == pytest.approx(found.gap_predicted, rel=1e-9, abs=1e-12)
    assert found.speed_gap == pytest.approx(found.speed_gap_predicted, rel=1e-9, abs=1e-12)
    assert max(found.gap[:n]) < 1e-12
    # The first answered step has the same gradient still.
    assert found.gap_answered[n] == pytest.approx(found.gap_predicted[n])
    assert found.gap_answered[n + 5] != pytest.approx(found.gap_predicted[n + 5], rel=1e-3)
    assert found.gap_limit > found.gap_predicted[-1] > found.gap_predicted[n] > 0


def test_the_predictions_are_the_formulas(dropped):
    mu, lost = dropped.momentum, dropped.gap_limit * (1 - dropped.momentum) / dropped.momentum
    at_drop = dropped.speed_outside[dropped.drop - 1] / dropped.lr  # |v| of (1)
    assert lost == pytest.approx((dropped.lr - dropped.lr_after) * at_drop)
    assert dropped.gap_predicted[dropped.drop] == pytest.approx(mu * lost)
    assert dropped.speed_gap_predicted[dropped.drop] == pytest.approx(mu * lost)
    assert dropped.gap_predicted[-1] == pytest.approx(mu * (1 - mu**50) / (1 - mu) * lost)


def test_the_one_with_lr_outside_is_the_first():
    found = lr_drop(conventions=("caffe", "torch"))
    assert (found.outside, found.inside) == ("torch", "caffe")
    assert found == lr_drop()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"conventions": ("torch",)}, "conventions must be two that are the same while lr is"),
        ({"conventions": ("torch", "optax")}, "conventions must be two"),
        ({"conventions": ("torch", "ema")}, "conventions must be two"),
        ({"conventions": ("torch:nesterov", "keras:nesterov")}, "conventions must be two"),
        ({"conventions": ("bengio-lr-outside", "bengio")}, "conventions must be two"),
        ({"momentum": 1.0}, "momentum must be < 1"),
        ({"momentum": 0.0}, "momentum must be a finite number > 0"),
        ({"lr_drop_factor": 1.0}, "lr_drop_factor must be a finite number > 0, not 1"),
        ({"lr_drop_factor": 0.0}, "lr_drop_factor must be a finite number > 0, not 1"),
        ({"drop": 60}, "drop must be > 0 and < 60"),
        ({"drop": 0}, "drop must be > 0 and < 60"),
    ],
)
def test_drops_out_of_range_are_refused(options, text):
    with pytest.raises(InvalidValueError, match=text):
        lr_drop(**options)


@pytest.mark.parametrize(("row", "nesterov"), RUNNING, ids=lambda value: getattr(value, "name", ""))
def test_the_boundary_of_every_rule_is_where_it_stops_to_converge(row, nesterov):
    rule = row.name + ":nesterov" * nesterov
    nu = 0.7 if row.look_ahead == "nu" else None
    edge = largest_stable(rule, nu=nu)
    for momentum in (0.15, 0.5, 0.95):
        expected = largest_lr(row, momentum=momentum, nesterov=nesterov, nu=nu)
        (mu,) = edge.free_symbols
        assert float(edge.subs(mu, momentum)) == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def maps():
    return stability_map()


def test_the_maps_are_eigenvalues(maps):
    heavy, ahead = maps.maps
    assert (heavy.formula, ahead.formula) == ("2 + 2·μ", "2·(1 + μ)/(1 + 2·μ)")
    for i in range(0, 100, 9):
        mu = maps.momenta[i]
        assert heavy.boundary[i] == pytest.approx(2 * (1 + mu))
        assert ahead.boundary[i] == pytest.approx(2 * (1 + mu) / (1 + 2 * mu))
        for j in range(0, 160, 13):
            x, z = heavy.lrs[j], ahead.lrs[j]
            companions = (
                [[1 + mu - x, -mu], [1, 0]],  # of θ_{t+1} = (1+μ-εh)θ_t - μ·θ_{t-1}
                [[(1 + mu) * (1 - z), -mu * (1 - z)], [1, 0]],
            )
            for one, companion in zip((heavy, ahead), companions, strict=True):
                radius = max(abs(np.linalg.eigvals(companion)))
                assert one.rates[i][j] == pytest.approx(radius, abs=1e-7)


def test_descents_stop_to_converge_at_the_boundary(maps):
    surface = get_surface("quadratic")
    for one in maps.maps:
        edge = one.boundary[50]
        ends = [
            descend(Descent(surface, one.rule, lr=f * edge, momentum=0.5), 400)[-1][1]
            for f in (0.97, 1.03)
        ]
        assert abs(ends[0]) < 1e-3
        assert abs(ends[1]) > 1e3


def test_a_map_reaches_beyond_its_boundary_and_takes_nu():
    (one,) = stability_map(conventions=("ema",)).maps
    assert one.lrs[-1] == pytest.approx(1.05 * 38)
    (quasi,) = stability_map(conventions=("qhm",), nu=0.7).maps
    assert quasi.boundary[90] == pytest.approx(2 * 1.9 / (1.9 - 2 * 0.7 * 0.9))
    with pytest.raises(InvalidValueError, match="nu must be a number for convention 'qhm'"):
        stability_map(conventions=("qhm",))
    with pytest.raises(InvalidUseError, match="is not run by SGD"):
        stability_map(conventions=("cntk-sparse",))
    with pytest.raises(InvalidValueError, match="nesterov must be False for convention 'negated'"):
        stability_map(conventions=("negated:nesterov",))


@pytest.fixture(scope="module")
def tuned():
    return spectrum()


def test_the_best_rates_are_the_published_ones(tuned):
    heavy, ahead = tuned.rules
    assert (heavy.rule, ahead.rule) == ("torch", "torch:nesterov")
    for k, rate_heavy, rate_ahead in zip(
        tuned.condition_numbers, heavy.best, ahead.best, strict=True
    ):
        # Polyak 1964; Lessard, Recht, Packard 2016, table 1.
        assert rate_heavy == pytest.approx((k**0.5 - 1) / (k**0.5 + 1), abs=1e-4)
        assert rate_heavy == pytest.approx(fastest(k), abs=1e-4)
        assert rate_ahead == pytest.approx(1 - 2 / (3 * k + 1) ** 0.5, abs=1e-4)
        assert rate_ahead < plain_descent(k)
    assert plain_descent(9) == pytest.approx(0.8)


def test_a_momentum_that_is_held_is_slow_on_easy_and_on_hard_problems(tuned):
    held = dict(zip(tuned.condition_numbers_held, tuned.rules[0].held, strict=True))
    assert len(held) == 40
    for k, rate in held.items():
        if k < 1300:  # where the best μ is below 0.9
            assert rate == pytest.approx(0.9**0.5)
        if k > 1600:
            assert rate > 0.9**0.5 + 1e-3


def test_the_momentum_of_a_spectrum_is_below_1():
    with pytest.raises(InvalidValueError, match=r"momentum must be >= 0 and < 1, got 1\.0"):
        spectrum(momentum=1.0)
