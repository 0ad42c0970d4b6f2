"""Stability and speed from the coefficients: closed forms, and runs that diverge or do not."""

import math
from typing import Any

import pytest
import torch

import sgdm
from sgdm import list_conventions, stability
from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError

M = 0.9
CLOSED_FORMS = [
    ("torch", {}, 2.0),
    ("torch", {"momentum": M}, 2 * (1 + M)),
    ("keras", {"momentum": M}, 2 * (1 + M)),
    ("torch", {"momentum": M, "nesterov": True}, 2 * (1 + M) / (1 + 2 * M)),
    ("keras", {"momentum": M, "nesterov": True}, 2 * (1 + M) / (1 + 2 * M)),
    ("nag", {"momentum": M}, 2 * (1 + M) / (1 + 2 * M)),
    ("sutskever", {"momentum": M, "nesterov": True}, 2 * (1 + M) / (1 + 2 * M)),
    ("ema", {"momentum": M}, 2 * (1 + M) / (1 - M)),
    ("kaldi-nnet3", {"momentum": M}, 2 * (1 + M) / (1 - M)),
    ("cntk", {"momentum": M, "nesterov": True}, 2 * (1 + M) / ((1 - M) * (1 + 2 * M))),
    ("qhm", {"momentum": M, "nu": 0.7}, 2 * (1 + M) / (1 + M - 2 * 0.7 * M)),
    ("chainer-nag", {"momentum": M}, 2 * (1 + M) / (1 + 2 * M + 2 * M * M)),
    ("torch", {"momentum": M, "dampening": 0.5}, 4 * (1 + M)),
    (
        "torch",
        {"momentum": M, "weight_decay": 0.05, "weight_decay_mode": "absolute"},
        (1 + 0.95) * (1 + M),
    ),
    ("torch", {"momentum": M, "weight_decay": 0.25}, 2 * (1 + M) / 1.25),
    ("torch", {"momentum": 1.0}, 0.0),
]


@pytest.mark.parametrize(("convention", "rule", "bound"), CLOSED_FORMS, ids=str)
def test_the_largest_lr_is_the_closed_form(convention, rule, bound):
    assert stability.largest_lr(convention, **rule) == pytest.approx(bound, rel=1e-9)
    if rule.get("weight_decay", 0) == 0:
        found = stability.largest_lr(convention, curvature=4.0, **rule)
        assert found == pytest.approx(bound / 4, rel=1e-9)


@pytest.mark.parametrize("row", [r for r in list_conventions() if r.runs], ids=lambda r: r.name)
def test_it_diverges_just_above_and_converges_just_below(row):
    """Measured, on p²/2, with the optimizer itself."""
    rule: dict[str, Any] = {"momentum": 0.8}
    if row.look_ahead == "nu":
        rule["nu"] = 0.6
    bound = stability.largest_lr(row, **rule)
    for factor, ends in ((0.97, "small"), (1.03, "large")):
        p = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        optimizer = sgdm.SGD([p], lr=factor * bound, convention=row.name, **rule)
        for _ in range(2000):
            p.grad = p.detach().clone()
            optimizer.step()
        assert ends == ("small" if abs(p.item()) < 1e-3 else "large")


@pytest.mark.parametrize("row", [r for r in list_conventions() if r.runs], ids=lambda r: r.name)
def test_the_rate_is_measured(row):
    rule: dict[str, Any] = {"momentum": 0.5}
    if row.look_ahead == "nu":
        rule["nu"] = 0.6
    lr = 0.3 * stability.largest_lr(row, **rule)
    p = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = sgdm.SGD([p], lr=lr, convention=row.name, **rule)
    sizes = []
    for _ in range(240):
        p.grad = p.detach().clone()
        optimizer.step()
        b = optimizer.state[p]["momentum_buffer"]
        sizes.append(math.hypot(p.item(), b.item()))
    # Of complex eigenvalues the size goes round: fit the slope over many turns.
    steps = range(40, 240)
    mean = sum(steps) / len(steps)
    slope = sum((t - mean) * math.log(sizes[t]) for t in steps) / sum(
        (t - mean) ** 2 for t in steps
    )
    assert math.exp(slope) == pytest.approx(
        stability.rate(row, lr=lr, curvature=1.0, **rule), rel=0.01
    )


@pytest.mark.parametrize("condition_number", [4, 100, 1e4])
def test_the_fastest_choice_is_the_closed_form(condition_number):
    root = math.sqrt(condition_number)
    small = 1 / condition_number

    plain = stability.best_lr("torch", condition_number=condition_number)
    assert plain.lr == pytest.approx(2 / (1 + small), rel=1e-9)
    assert plain.rate == pytest.approx((condition_number - 1) / (condition_number + 1), rel=1e-9)

    for name in ("torch", "keras"):
        heavy = stability.best(name, condition_number=condition_number)
        assert heavy.momentum == pytest.approx(((root - 1) / (root + 1)) ** 2, rel=1e-5)
        assert heavy.lr == pytest.approx(4 / (1 + math.sqrt(small)) ** 2, rel=1e-5)
        assert heavy.rate == pytest.approx((root - 1) / (root + 1), rel=1e-6)

    triple = math.sqrt(3 * condition_number + 1)
    nesterov = stability.best("torch", condition_number=condition_number, nesterov=True)
    assert nesterov.lr == pytest.approx(4 / (3 + small), rel=1e-5)
    assert nesterov.momentum == pytest.approx((triple - 2) / (triple + 2), rel=1e-5)
    assert nesterov.rate == pytest.approx(1 - 2 / triple, rel=1e-6)

    unit = stability.best("ema", condition_number=condition_number)
    assert unit.rate == pytest.approx(heavy.rate, rel=1e-6)
    assert unit.lr * (1 - unit.momentum) == pytest.approx(heavy.lr, rel=1e-4)


@pytest.mark.parametrize("momentum", [0.3, 0.6, 0.9])
def test_the_fastest_lr_of_a_given_momentum(momentum):
    """Heavy ball: 2(1+m)/(L+l), whose rate is √m where all is complex."""
    found = stability.best_lr("torch", condition_number=9, momentum=momentum)
    a = (1 + momentum) * 8 / 10
    rate = math.sqrt(momentum)
    if a * a > 4 * momentum:
        rate = (a + math.sqrt(a * a - 4 * momentum)) / 2
    assert found.rate == pytest.approx(rate, rel=1e-9)
    assert found.momentum == momentum


def test_one_curvature_is_reached_at_once():
    found = stability.best("torch", condition_number=1)
    assert found.lr == pytest.approx(1)
    assert found.rate < 1e-6


def test_several_curvatures_count_as_the_slowest():
    rates = [stability.rate("torch", lr=1.0, curvature=h, momentum=0.5) for h in (0.01, 1.0)]
    assert stability.rate("torch", lr=1.0, curvature=(0.01, 1.0), momentum=0.5) == max(rates)


def test_nothing_is_found_faster_by_chance(seed):
    """Drawn choices never beat the best."""
    generator = torch.Generator().manual_seed(seed)
    rules: list[tuple[str, Any]] = [("torch", {}), ("torch", {"nesterov": True})]
    for name, rule in (*rules, ("chainer-nag", {})):
        best = stability.best(name, condition_number=50, **rule)
        for lr, momentum in torch.rand((500, 2), generator=generator, dtype=torch.float64).tolist():
            drawn = stability.rate(
                name, lr=4 * lr, curvature=(1.0, 0.02), momentum=momentum, **rule
            )
            assert drawn >= best.rate - 1e-9


def test_what_is_out_of_range_is_named():
    with pytest.raises(InvalidValueError, match="curvature must be a finite number > 0, got 0"):
        stability.largest_lr("torch", curvature=0)
    with pytest.raises(InvalidValueError, match="condition_number must be a finite number >= 1"):
        stability.best("torch", condition_number=0.5)
    with pytest.raises(InvalidValueError, match="lr must be a finite number >= 0, got nan"):
        stability.rate("torch", lr=math.nan, curvature=1.0)
    with pytest.raises(InvalidValueError, match="curvature must be a finite number >= 0, got nan"):
        stability.rate("torch", lr=0.1, curvature=[1.0, math.nan])
    with pytest.raises(InvalidValueError, match="curvature must be a number or several"):
        stability.rate("torch", lr=0.1, curvature=[])
    with pytest.raises(InvalidTypeError, match="curvature must be a finite number >= 0, got 'a'"):
        stability.rate("torch", lr=0.1, curvature="a")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidTypeError, match=r"must be among momentum, .*, got 'momentun'"):
        stability.rate("torch", lr=0.1, curvature=1.0, momentun=0.9)  # pyright: ignore[reportCallIssue]
    with pytest.raises(InvalidValueError, match="weight_decay_mode must be None or one of"):
        stability.rate("torch", lr=0.1, curvature=1.0, weight_decay_mode="x")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidValueError, match="nu must be a number for convention 'qhm'"):
        stability.rate("qhm", lr=0.1, curvature=1.0)
    with pytest.raises(InvalidUseError, match="'thinc' is not run by SGD"):
        stability.largest_lr("thinc")
