"""Hyperparameters that make another convention's trajectory, checked by running both."""

from random import Random
from typing import Any

import pytest
import torch

import sgdm
from sgdm import get_convention, list_conventions, port_hyperparameters
from sgdm.errors import InvalidUseError, InvalidValueError
from sgdm.hyperparameters import check_nesterov
from sgdm.porting import NoEqualError
from sgdm.system import Run

RUNNING = [row.name for row in list_conventions() if row.runs]


def run(convention, steps=30, **hyperparameters):
    """Steps on a quadratic and drawn gradients, in float64; Θ after each."""
    generator = torch.Generator().manual_seed(3)
    curvature = torch.tensor([1.0, 0.3], dtype=torch.float64)
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = sgdm.SGD([p], convention=convention, **hyperparameters)
    path = []

    def closure():
        path.append(p.detach().clone())
        drawn = torch.randn(2, generator=generator, dtype=torch.float64)
        p.grad = curvature * p.detach() + drawn
        return torch.tensor(0.0)

    for _ in range(steps):
        optimizer.step(closure)
    return torch.stack(path)


def given_of(name: str, nesterov: bool) -> dict[str, Any]:
    row = get_convention(name)
    given: dict[str, Any] = {
        "lr": 0.05,
        "momentum": 0.8,
        "nesterov": nesterov and row.nesterov == "optional",
    }
    if row.look_ahead == "nu":
        given["nu"] = 0.8 if nesterov else 1.0
    return given


def taken_from(ported: sgdm.Ported) -> dict[str, Any]:
    names = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "nu")
    row = get_convention(ported.convention)
    taken = {name: getattr(ported, name) for name in names}
    return taken | {"nesterov": ported.nesterov and row.nesterov == "optional"}


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("source", RUNNING)
def test_whatever_is_ported_moves_as_its_source(source, nesterov):
    """Every pair that has an equal: from the start, where it says so."""
    given = given_of(source, nesterov)
    expected = run(source, **given)
    ported = 0
    for target in RUNNING:
        try:
            found = port_hyperparameters(source=source, to=target, **given)
        except NoEqualError:
            continue
        ported += 1
        if found.from_start:
            apart = (run(target, **taken_from(found)) - expected).abs().max()
            assert apart < 1e-11, target
    assert ported >= 2


@pytest.mark.parametrize("source", ["torch", "keras3", "timm", "composer", "cntk", "mxnet-nag-1.4"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_weight_decay_is_ported_in_its_own_kind(source, nesterov):
    given: dict[str, Any] = {**given_of(source, nesterov), "weight_decay": 0.02}
    expected = run(source, **given)
    same_kind = 0
    for target in RUNNING:
        try:
            found = port_hyperparameters(source=source, to=target, **given)
        except NoEqualError:
            continue
        if found.from_start:
            same_kind += 1
            apart = (run(target, **taken_from(found)) - expected).abs().max()
            assert apart < 1e-11, target
    assert same_kind >= 2


def test_what_is_ported_can_be_run_and_answers_alike(seed):
    """Drawn pairs and hyperparameters: SGD takes them, and the two steps are one behaviour."""
    random = Random(seed)
    ported = 0
    for _ in range(600):
        source, target = (get_convention(random.choice(RUNNING)) for _ in range(2))
        given: dict[str, Any] = {
            "lr": random.choice([0.01, 0.3]),
            "momentum": random.choice([0.0, 0.5, 0.9]),
            "weight_decay": random.choice([0.0, 0.0, 1e-3]),
            "nesterov": source.nesterov == "optional" and random.random() < 0.5,
            "dampening": 0.25 * (source.gain == "1-dampening" and random.random() < 0.3),
            "nu": 0.7 if source.look_ahead == "nu" else None,
        }
        try:
            check_nesterov(source, **{k: given[k] for k in ("momentum", "dampening", "nesterov")})
        except InvalidValueError:
            continue
        try:
            found = port_hyperparameters(source=source.name, to=target.name, **given)
        except NoEqualError:
            continue
        ported += 1
        taken = taken_from(found)
        sgdm.SGD([torch.nn.Parameter(torch.ones(1))], convention=target.name, **taken)
        one, other = (behaviour(*side) for side in ((source, given), (target, taken)))
        assert one == pytest.approx(other, rel=1e-9, abs=1e-12), (source.name, target.name, given)
    assert ported > 100


def behaviour(row, given):
    schedules = {name: (lambda _, value=given[name]: value) for name in ("lr", "momentum")}
    rest = {name: given[name] for name in ("dampening", "weight_decay", "nesterov", "nu")}
    return Run(convention=row, **schedules, **rest, lr0=given["lr"]).step(0).behaviour()


def test_coupled_decay_becomes_decoupled():
    """The worked example of conventions of both kinds; the roots of x² - (1 + μ - ελ)x + μ."""
    found = port_hyperparameters(
        source="torch", to="keras", lr=0.1, momentum=0.9, weight_decay=5e-4
    )
    assert 1 - found.lr * found.weight_decay == pytest.approx(1 - 5.0227e-4, abs=1e-8)
    assert found.momentum == pytest.approx(0.900452, abs=1e-6)
    assert not found.from_start
    back = port_hyperparameters(
        source="keras",
        to="torch",
        lr=found.lr,
        momentum=found.momentum,
        weight_decay=found.weight_decay,
    )
    assert (back.lr, back.momentum, back.weight_decay) == pytest.approx((0.1, 0.9, 5e-4))


def test_a_converted_state_makes_ported_decay_exact():
    """b̂ = (μ/μ̂)·b - ((1 - ελ - κ)/(ε·μ̂))·p, and the trajectories coincide."""
    lr, mu, wd = 0.1, 0.9, 5e-4
    found = port_hyperparameters(source="torch", to="keras", lr=lr, momentum=mu, weight_decay=wd)
    keep = 1 - lr * found.weight_decay
    p, b = 1.0, 0.0
    for g in (0.5, -1.0, 2.0):
        b = mu * b + g + wd * p
        p -= lr * b
    outside = (mu / found.momentum) * b - (1 - lr * wd - keep) / (lr * found.momentum) * p
    q, v = p, -lr * outside
    for g in (1.0, 0.3, -0.7, 0.1):
        b = mu * b + g + wd * p
        p -= lr * b
        v = found.momentum * v - lr * g
        q = keep * q + v
        assert q == pytest.approx(p, rel=1e-13)


def test_numbers_stay_the_decimals_they_are():
    found = port_hyperparameters(source="torch", to="ema", lr=0.1, momentum=0.9)
    assert (found.lr, found.momentum) == (1.0, 0.9)
    found = port_hyperparameters(source="cntk", to="torch", lr=0.8, momentum=0.9)
    assert found.lr == 0.08
    found = port_hyperparameters(
        source="timm", to="composer", lr=0.1, momentum=0.9, weight_decay=0.05
    )
    assert found.weight_decay == 0.005


def test_dampening_is_kept_or_becomes_a_smaller_lr():
    given: dict[str, Any] = {"source": "torch", "lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    assert port_hyperparameters(to="apex", **given).dampening == 0.5
    found = port_hyperparameters(to="tf1", **given)
    assert (found.lr, found.dampening, found.from_start) == (0.05, 0, False)


def test_the_same_convention_keeps_everything():
    found = port_hyperparameters(source="torch", to="pytorch", lr=0.1, momentum=0.9, dampening=0.5)
    assert (found.lr, found.momentum, found.dampening, found.from_start) == (0.1, 0.9, 0.5, True)


REFUSED = [
    ({"source": "torch", "to": "chainer-nag", "nesterov": True}, "look-ahead"),
    ({"source": "torch", "to": "nag"}, "look-ahead"),
    ({"source": "qhm", "to": "torch", "nu": 0.7}, "look-ahead"),
    ({"source": "torch", "to": "keras", "weight_decay": 0.5}, "so strong that it oscillates"),
    ({"source": "torch", "to": "mxnet-nag-1.6", "nesterov": True, "weight_decay": 0.1}, "defect"),
    ({"source": "torch", "to": "ema", "momentum": 1.0}, "a step with a gain of 1 - μ = 0"),
    ({"source": "torch", "to": "qhm", "momentum": 1}, "a step with a gain of 1 - μ = 0"),
    ({"source": "torch", "to": "keras", "dampening": 1}, "does not move the parameter"),
    (
        {"source": "onnx", "to": "torch", "dampening": 0.5, "nesterov": True},
        "with dampening, which it refuses",
    ),
]


@pytest.mark.parametrize(("arguments", "part"), REFUSED, ids=str)
def test_a_part_without_an_equal_is_named(arguments, part):
    given: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, **arguments}
    with pytest.raises(NoEqualError, match="to must be a convention with an equal for") as caught:
        port_hyperparameters(**given)
    assert part in caught.value.part
    assert part in str(caught.value)


def test_bad_values_are_refused():
    with pytest.raises(InvalidValueError, match=r"lr must be > 0, got 0; port the peak"):
        port_hyperparameters(source="torch", to="keras", lr=0)
    with pytest.raises(InvalidValueError, match="momentum must be a finite number >= 0"):
        port_hyperparameters(source="torch", to="keras", lr=0.1, momentum=-1)
    with pytest.raises(InvalidValueError, match="nesterov must be False for convention 'negated'"):
        port_hyperparameters(source="negated", to="torch", lr=0.1, momentum=0.9, nesterov=True)
    with pytest.raises(InvalidValueError, match="Nesterov momentum requires a momentum"):
        port_hyperparameters(source="torch", to="keras", lr=0.1, nesterov=True)
    with pytest.raises(InvalidValueError, match="weight_decay_mode must be None or one of"):
        port_hyperparameters(source="torch", to="keras", lr=0.1, to_weight_decay_mode="x")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidUseError, match="'schedulefree' is not run by SGD"):
        port_hyperparameters(source="torch", to="schedulefree", lr=0.1)
