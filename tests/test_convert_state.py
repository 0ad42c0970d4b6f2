"""State converted between conventions: every pair goes on as if nothing had happened."""

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import sgdm
from driving import buffer_of, parameter, step_with
from sgdm import convert_, convert_state_dict, list_conventions
from sgdm.compare import sides
from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError
from sgdm.identity import identity

RUNNING = [row for row in list_conventions() if row.runs]
STEPS = 12


class Schedule:
    """Both move in every step; momentum rests around the conversion, which takes it as constant."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.lrs = rng.uniform(0.01, 0.1, 2 * STEPS + 1).tolist()
        self.momenta = rng.uniform(0.5, 0.9, 2 * STEPS + 1).tolist()
        self.momenta[STEPS - 1 : STEPS + 2] = [0.8] * 3


class Problem:
    """Two parameters, and gradients that depend on the point and on the step."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.starts = [torch.from_numpy(rng.standard_normal(3)) for _ in range(2)]
        self.shifts = torch.from_numpy(rng.standard_normal((2 * STEPS, 3)))

    def params(self) -> list[torch.nn.Parameter]:
        return [torch.nn.Parameter(start.clone()) for start in self.starts]

    def go(self, optimizer, params, first: int, schedule) -> list[torch.Tensor]:
        """Step on from step `first`; return Θ, where the gradients are taken, at every step."""
        path = []
        ahead = sgdm.get_convention(optimizer.param_groups[0]["convention"]).momentum == "next"
        for t in range(first, first + STEPS):
            for group in optimizer.param_groups:
                if schedule is not None:
                    group["lr"], group["momentum"] = schedule.lrs[t], schedule.momenta[t + ahead]

            def closure(t=t):
                path.append(torch.cat([p.detach().clone() for p in params]))
                for p in params:
                    p.grad = 0.3 * p.detach() + torch.sin(p.detach()) + self.shifts[t]
                return torch.tensor(0.0)

            optimizer.step(closure)
        return path


def given_of(row, nesterov: bool, weight_decay: float) -> dict[str, Any]:
    return {
        "lr": 0.07,
        "momentum": 0.8,
        "weight_decay": weight_decay,
        "nesterov": nesterov and row.nesterov == "optional",
        "nu": 0.8 if row.look_ahead == "nu" else None,
    }


class Halfway:
    """A run that has made its first steps; it goes on as it is, or converted."""

    def __init__(self, source, problem, given, schedule=None):
        self.problem, self.schedule = problem, schedule
        self.params = problem.params()
        self.optimizer = sgdm.SGD(self.params, convention=source.name, **given)
        problem.go(self.optimizer, self.params, 0, schedule)
        self.kept = self.go_on()

    def go_on(self, target=None, **options) -> torch.Tensor:
        params, optimizer = copy.deepcopy((self.params, self.optimizer))
        if target is not None:
            if self.schedule is not None:
                options |= {
                    "lr": self.schedule.lrs[STEPS],
                    "momentum": self.schedule.momenta[STEPS],
                }
            convert_(optimizer, to=target.name, **options)
        return torch.stack(self.problem.go(optimizer, params, STEPS, self.schedule))

    def gap(self, target, **options) -> torch.Tensor:
        """How far the converted run is from the other, as a part of its size."""
        return (self.kept - self.go_on(target, **options)).abs().max() / self.kept.abs().max()


@pytest.mark.parametrize("source", RUNNING, ids=lambda row: row.name)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
def test_every_pair_goes_on_as_if_nothing_had_happened(source, nesterov, weight_decay, seed):
    """With constant hyperparameters, to 1e-11; what has no equal is refused and left alone."""
    run = Halfway(source, Problem(seed), given_of(source, nesterov, weight_decay))
    converted = 0
    for target in RUNNING:
        try:
            gap = run.gap(target)
        except InvalidUseError as error:
            assert "cannot be converted" in str(error)  # noqa: PT017 - either of the two
            continue
        converted += 1
        assert gap < 1e-11, target.name
    assert converted >= 1


def always_the_same(source, target, nesterov: bool) -> bool:
    """Whether they are so, both with Nesterov's method or both without."""
    looks = {source.nesterov, target.nesterov}
    if not looks <= ({"optional", "always"} if nesterov else {"optional", "never"}):
        return False
    return identity(*sides(source, target, nesterov=nesterov)) == "always"


@pytest.mark.parametrize("source", RUNNING, ids=lambda row: row.name)
@pytest.mark.parametrize("nesterov", [False, True])
def test_what_is_always_the_same_is_so_under_a_schedule(source, nesterov, seed):
    targets = [target for target in RUNNING if always_the_same(source, target, nesterov)]
    assert source in targets or source.nesterov == ("always", "never")[nesterov]
    run = Halfway(source, Problem(seed), given_of(source, nesterov, 0.0), Schedule(seed))
    for target in targets:
        assert run.gap(target) < 1e-11, target.name


@pytest.mark.parametrize(
    ("source", "target", "given"),
    [
        ("torch", "ema", {}),
        ("torch", "cntk", {"nesterov": True}),
        ("cntk", "torch", {"nesterov": True}),
        ("torch", "qhm", {"nesterov": True}),
        ("chainer-nag", "qhm", {}),
        ("torch", "keras3", {"weight_decay": 0.01}),
        ("keras3", "torch", {"weight_decay": 0.01}),
        ("torch", "tf1", {"dampening": 0.5}),
        ("timm", "composer", {"weight_decay": 0.01}),
    ],
)
def test_what_needs_other_hyperparameters_is_ported(source, target, given, seed):
    values: dict[str, Any] = {"lr": 0.07, "momentum": 0.8, **given}
    run = Halfway(sgdm.get_convention(source), Problem(seed), values)
    assert run.gap(sgdm.get_convention(target), port=True) < 1e-11


def test_the_upcoming_lr_counts(seed):
    """Converted before the step with which the learning rate falls, by the new one."""
    schedule = Schedule(seed)
    schedule.lrs = [0.1] * STEPS + [0.01] * (STEPS + 1)
    given = {"lr": 0.1, "momentum": 0.9}
    run = Halfway(sgdm.get_convention("keras3"), Problem(seed), given, schedule)
    assert run.gap(sgdm.get_convention("torch")) < 1e-11


def test_a_state_dict_is_converted_and_the_old_one_left_as_it_is(seed):
    problem = Problem(seed)
    params = problem.params()
    torchs = torch.optim.SGD(params, lr=0.07, momentum=0.8, nesterov=True)
    for t in range(3):
        for p in params:
            p.grad = p.detach() + problem.shifts[t]
        torchs.step()
    saved = torchs.state_dict()
    kept = copy.deepcopy(saved)
    made = convert_state_dict(saved, to="keras")
    for index, state in kept["state"].items():
        assert torch.equal(saved["state"][index]["momentum_buffer"], state["momentum_buffer"])
        expected = (-0.07) * state["momentum_buffer"]
        assert torch.equal(made["state"][index]["momentum_buffer"], expected)
    assert "convention" not in saved["param_groups"][0]
    keras = sgdm.SGD(params, lr=0.07, momentum=0.8, nesterov=True, convention="keras")
    keras.load_state_dict(made)
    back = convert_state_dict(keras.state_dict(), to="torch")
    again = torch.optim.SGD(params, lr=0.5)
    again.load_state_dict(back)
    assert again.param_groups[0]["lr"] == 0.07
    for p, index in zip(params, kept["state"], strict=True):
        expected = kept["state"][index]["momentum_buffer"]
        assert torch.allclose(again.state[p]["momentum_buffer"], expected, rtol=1e-15)
    again.step()


def test_a_factor_is_one_rounding(seed):
    """float32 buffers times a double: rounded once."""
    torch.manual_seed(seed)
    p = torch.nn.Parameter(torch.randn(100_000))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9)
    p.grad = torch.randn(100_000)
    optimizer.step()
    before = buffer_of(optimizer, p).double()
    convert_(optimizer, to="keras")
    assert torch.equal(buffer_of(optimizer, p), (-0.1 * before).float())


def test_what_belongs_to_a_parameter_comes_along():
    p = parameter(1.0, 2.0)
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, nesterov=True, ema_decay=0.5, dampening=0)
    for _ in range(3):
        step_with(optimizer, 1.0)
    average = optimizer.state[p]["average"].clone()
    with optimizer.at_iterate():
        iterate = p.detach().clone()
    convert_(optimizer, to="caffe")
    assert torch.equal(optimizer.state[p]["average"], average)
    with optimizer.at_iterate():
        assert torch.allclose(p, iterate, rtol=1e-14)


def test_averages_of_another_point_are_named_as_dropped():
    p = parameter(1.0, 2.0)
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, ema_decay=0.5, convention="bengio")
    step_with(optimizer, 1.0)
    with pytest.warns(UserWarning, match="the moving averages are dropped"):
        convert_(optimizer, to="sutskever")
    assert "average" not in optimizer.state[p]


def test_a_decay_keeps_its_kind():
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.01)
    step_with(optimizer, 1.0)
    convert_(optimizer, to="keras")
    assert optimizer.param_groups[0]["weight_decay_mode"] == "coupled"
    convert_(optimizer, to="torch")
    assert optimizer.param_groups[0]["weight_decay_mode"] is None


REFUSED = [
    (
        {"to": "ema"},
        "state cannot be converted from 'torch' to 'ema' with the same hyperparameters, which make "
        "another trajectory; port=True takes lr=1, momentum=0.9, which make this one",
    ),
    (
        {"to": "nag"},
        "state cannot be converted from 'torch' to 'nag': the target has no equal for the "
        "look-ahead, the gradient's way into the step beside the buffer; take another convention, "
        "such as 'qhm'",
    ),
    (
        {"to": "keras", "lr": 0.0},
        "state cannot be converted from 'torch' to 'keras3' before a step with lr = 0, which would "
        "divide by it or empty the buffer; give the lr and momentum of the step from which on they "
        "are not 0, or convert then",
    ),
    (
        {"to": "keras", "momentum": 0.0},
        "state cannot be converted from 'torch' to 'keras3' before a step with momentum = 0, which "
        "would divide by it or empty the buffer; give the lr and momentum of the step from which "
        "on they are not 0, or convert then",
    ),
    (
        {"to": "detectron"},
        "state cannot be converted to 'detectron': it corrects the momentum where ε moves by more "
        "than a tenth only; take 'caffe' with correct_momentum=True, which also corrects a slow "
        "warm-up",
    ),
    ({"to": "keras", "lr": [0.1, 0.2]}, "lr must be a number, or 1 of them, one for each group"),
]


@pytest.mark.parametrize(("arguments", "text"), REFUSED, ids=lambda x: str(x)[:40])
def test_what_cannot_be_is_refused_and_nothing_is_changed(arguments, text):
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9)
    step_with(optimizer, 1.0)
    before = copy.deepcopy(optimizer.state_dict())
    for call in (
        lambda: convert_(optimizer, **arguments),
        lambda: convert_state_dict(optimizer.state_dict(), **arguments),
    ):
        with pytest.raises((InvalidUseError, InvalidValueError)) as caught:
            call()
        assert str(caught.value).startswith(text)
        assert str(optimizer.state_dict()) == str(before)


def test_a_first_step_that_is_to_come_and_would_be_another_is_refused():
    started, late = parameter(1.0), parameter(1.0)
    optimizer = sgdm.SGD([started, late], lr=0.1, momentum=0.9, dampening=0.5)
    step_with(optimizer, 1.0, None)
    with pytest.raises(InvalidUseError) as caught:
        convert_(optimizer, to="mlx")
    assert str(caught.value) == (
        "state cannot be converted to 'mlx' before every parameter has made its first step, which "
        "is another there: 1 has not; step once with all gradients, then convert"
    )
    assert optimizer.param_groups[0]["convention"] == "torch"
    convert_(optimizer, to="timm")
    assert buffer_of(optimizer, started).item() == 1.0
    assert late not in optimizer.state or "momentum_buffer" not in optimizer.state[late]


def test_a_dict_that_needs_its_parameters_is_refused():
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, convention="bengio")
    step_with(optimizer, 1.0)
    with pytest.raises(InvalidUseError, match="the parameters are needed; load the dict into an"):
        convert_state_dict(optimizer.state_dict(), to="sutskever")
    convert_(optimizer, to="sutskever")
    assert p.item() == pytest.approx(0.9)


def test_a_source_that_the_dict_contradicts_is_refused():
    saved = sgdm.SGD([parameter(1.0)], convention="caffe").state_dict()
    with pytest.raises(InvalidValueError, match="source must be 'caffe', which the state dict"):
        convert_state_dict(saved, source="torch", to="keras")


def test_nothing_is_converted_inside_a_block_that_shows_other_parameters():
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, nesterov=True)
    step_with(optimizer, 1.0)
    with (
        optimizer.at_iterate(),
        pytest.raises(InvalidUseError, match=r"convert_\(\) must be called outside"),
    ):
        convert_(optimizer, to="caffe")


def test_a_corrected_target():
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9)
    step_with(optimizer, 2.0)
    convert_(optimizer, to="keras", correct_momentum=True)
    assert buffer_of(optimizer, p).item() == -2.0
    assert optimizer.param_groups[0]["correct_momentum"] is True


def test_no_warning_where_nothing_is_dropped():
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, ema_decay=0.9)
    step_with(optimizer, 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_(optimizer, to="keras")


# ---- what is refused ----


def test_a_momentum_that_has_just_changed_is_not_ported():
    """Where the buffer holds the last one: the target's numbers would be of neither."""
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = sgdm.SGD([p], lr=0.05, momentum=0.8, convention="kaldi-nnet3")
    for _ in range(3):
        p.grad = p.detach().clone()
        optimizer.step()
    optimizer.param_groups[0]["momentum"] = 0.6
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(InvalidUseError, match=r"right after momentum has changed, .*; step once"):
        convert_(optimizer, to="tf-keras", port=True)
    assert str(optimizer.state_dict()) == str(before)


def test_torch_s_dict_holds_no_decay_of_another_kind(seed):
    """torch.optim.SGD, which loads it, would add λθ to the gradient."""
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.2, convention="keras")

    def step(optimizer, p):
        p.grad = torch.sin(p.detach())
        optimizer.step()

    for _ in range(3):
        step(optimizer, p)
    with pytest.raises(InvalidUseError, match=r"port=True takes lr=0.1, momentum=0.882"):
        convert_state_dict(optimizer.state_dict(), to="torch")
    q, in_place = copy.deepcopy((p, optimizer))
    convert_(in_place, to="torch")
    assert in_place.param_groups[0]["weight_decay_mode"] == "lr"
    for _ in range(4):
        step(optimizer, p)
        step(in_place, q)
    assert torch.allclose(p, q, rtol=1e-12)


def test_a_learning_rate_of_zero_does_not_matter_to_one_rule():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    p.grad = torch.full((2,), 0.3)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    given = optimizer.state_dict()
    made = convert_state_dict(given, to="torch")
    assert torch.equal(made["state"][0]["momentum_buffer"], given["state"][0]["momentum_buffer"])
    with pytest.raises(InvalidUseError, match="lr = 0"):
        convert_state_dict(given, to="keras")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: {},
        lambda d: {**d, "param_groups": 3},
        lambda d: {**d, "param_groups": [3]},
        lambda d: {**d, "param_groups": [{"params": [0], "lr": 0.1, "betas": (0.9, 0.999)}]},
        lambda d: {**d, "state": {0: {"momentum_buffer": 3}}},
        lambda d: {**d, "state": {0: 3}},
    ],
)
def test_a_dict_of_something_else_is_one_error(change):
    given = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], momentum=0.9).state_dict()
    with pytest.raises(
        InvalidValueError, match=r"state_dict must be one of sgdm.SGD or torch.optim"
    ):
        convert_state_dict(change(given), to="keras")


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"lr": float("nan")}, InvalidValueError, "lr must be a finite number >= 0, got nan"),
        ({"lr": -1.0}, InvalidValueError, "lr must be a finite number >= 0, got -1.0"),
        ({"lr": "0.1"}, InvalidTypeError, "lr must be a number"),
        ({"momentum": -5.0}, InvalidValueError, "momentum must be a finite number >= 0"),
        ({"momentum": float("inf")}, InvalidValueError, "momentum must be a finite number >= 0"),
    ],
)
def test_numbers_are_checked_as_an_optimizer_checks_them(given, error, text):
    p = torch.nn.Parameter(torch.ones(2))
    saved = torch.optim.SGD([p], lr=0.1, momentum=0.9).state_dict()
    with pytest.raises(error, match=text):
        convert_state_dict(saved, to="keras", **given)
    with pytest.raises(error, match=text):
        convert_(sgdm.SGD([p], lr=0.1, momentum=0.9), to="keras", **given)


def test_torch_s_optimizer_has_to_be_taken_over_first():
    optimizer: Any = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(InvalidTypeError, match=r"SGD'>; take .* over with sgdm.SGD.from_torch"):
        convert_(optimizer, to="keras")
