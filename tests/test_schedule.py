"""The momentum schedules, and the scheduler that knows which momentum a step is given."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sgdm
from sgdm.schedule import (
    MomentumScheduler,
    demon,
    nesterov,
    strongly_convex,
    su_boyd_candes,
    sutskever,
)


def optimizer_of(*conventions: str) -> sgdm.SGD:
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "convention": c} for c in conventions
    ]
    return sgdm.SGD(groups, lr=0.1)


def momenta(optimizer) -> list[float]:
    return [group["momentum"] for group in optimizer.param_groups]


def test_each_convention_is_given_the_momentum_of_its_step():
    optimizer = optimizer_of("torch", "nag", "bengio", "bengio-lr-outside", "sutskever")
    scheduler = MomentumScheduler(optimizer, lambda t: t / 10)
    assert momenta(optimizer) == [0.0, 0.1, 0.1, 0.1, 0.0]
    scheduler.step()
    assert momenta(optimizer) == [0.1, 0.2, 0.2, 0.2, 0.1]


def test_a_function_for_each_group():
    optimizer = optimizer_of("torch", "torch")
    MomentumScheduler(optimizer, [lambda t: 0.1, lambda t: 0.2])
    assert momenta(optimizer) == [0.1, 0.2]


def test_it_resumes():
    optimizer = optimizer_of("torch")
    scheduler = MomentumScheduler(optimizer, su_boyd_candes())
    for _ in range(5):
        scheduler.step()
    other = optimizer_of("torch")
    resumed = MomentumScheduler(other, su_boyd_candes())
    resumed.load_state_dict(scheduler.state_dict())
    assert momenta(other) == momenta(optimizer) == [5 / 8]


def test_groups_added_later_are_driven_too():
    optimizer = optimizer_of("torch")
    scheduler = MomentumScheduler(optimizer, lambda t: t / 10)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    scheduler.step()
    assert momenta(optimizer) == [0.1, 0.1]
    per_group = MomentumScheduler(optimizer, [lambda t: 0.1, lambda t: 0.2])
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="make a new MomentumScheduler after add_param_group"):
        per_group.step()


def test_it_drives_torchs_own_optimizer_too():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], momentum=0.9)
    MomentumScheduler(optimizer, lambda t: 0.5)
    assert optimizer.param_groups[0]["momentum"] == 0.5


def test_an_optimizer_without_momentum_is_refused():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(TypeError, match="optimizer must be one whose groups have a momentum"):
        MomentumScheduler(optimizer, su_boyd_candes())


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match=r"function must be callable as function\(t\), got 0.9"):
        MomentumScheduler(optimizer_of("torch"), [0.9])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="one for each of the 1 groups, got '2 functions'"):
        MomentumScheduler(optimizer_of("torch"), [demon(0.9, 5)] * 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_a_momentum_out_of_range_is_refused_and_nothing_is_written(value):
    optimizer = optimizer_of("torch", "torch")
    scheduler = MomentumScheduler(optimizer, [lambda t: 0.5 + t / 10, lambda t: value if t else 0])
    with pytest.raises(ValueError, match=r"function\(1\) must be a finite number >= 0"):
        scheduler.step()
    assert momenta(optimizer) == [0.5, 0]


def test_nesterov_is_fistas_sequence():
    values = [nesterov()(t) for t in range(5)]
    assert values == pytest.approx([0, 0, 0.28175, 0.43404, 0.53106], abs=1e-5)
    assert nesterov()(1000) == pytest.approx(1 - 3 / 1000, abs=1e-4)


def test_nesterov_is_a_function_of_t_alone():
    one, other = nesterov(), nesterov()
    assert [one(t) for t in (50, 3, 50)] == [other(50), other(3), other(50)]


def test_sutskever_is_the_published_formula():
    published = lambda t: min(1 - 2 ** (-1 - math.log2(t // 250 + 1)), 0.95)  # noqa: E731
    for t in range(0, 6000, 83):
        assert sutskever(0.95)(t) == pytest.approx(published(t), rel=1e-15)


def test_strongly_convex_makes_the_rate_of_section_5():
    assert strongly_convex(1)(0) == 0
    assert strongly_convex(100)(7) == pytest.approx(9 / 11)


def test_demon_ends_at_zero():
    schedule = demon(0.9, 10)
    assert schedule(0) == 0.9
    assert schedule(10) == schedule(1000) == 0.0


@given(t=st.integers(0, 10_000))
def test_every_schedule_stays_a_momentum(t):
    for schedule in (
        nesterov(),
        su_boyd_candes(),
        sutskever(0.99),
        strongly_convex(50.0),
        demon(0.95, 500),
    ):
        assert 0 <= schedule(t) < 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sutskever(1.0), r"mu_max must be in \[0, 1\), got 1.0"),
        (lambda: sutskever(math.nan), "mu_max must be"),
        (lambda: strongly_convex(0.5), "condition_number must be a finite number >= 1, got 0.5"),
        (lambda: strongly_convex(math.inf), "condition_number must be"),
        (lambda: demon(-0.1, 5), r"momentum must be in \[0, 1\), got -0.1"),
        (lambda: demon(0.9, 0), "steps must be > 0, got 0"),
        (lambda: demon(0.9, math.nan), "steps must be > 0, got nan"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
