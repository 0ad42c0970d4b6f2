"""State converted between conventions: every pair goes on as if nothing had happened."""

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import sgdm
from driving import buffer_of, parameter, step_with
from sgdm import compare_conventions, convert_, convert_state_dict, list_conventions
from sgdm.errors import InvalidUseError, InvalidValueError

RUNNING = [row for row in list_conventions() if row.runs]
STEPS = 12


class Problem:
    """Two parameters, and gradients that depend on the point and on the step."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.starts = [torch.from_numpy(rng.standard_normal(3)) for _ in range(2)]
        self.shifts = torch.from_numpy(rng.standard_normal((2 * STEPS, 3)))

    def params(self) -> list[torch.nn.Parameter]:
        return [torch.nn.Parameter(start.clone()) for start in self.starts]

    def go(self, optimizer, params, first: int, lrs, momenta) -> list[torch.Tensor]:
        """Step on from step `first`; return Θ, where the gradients are taken, at every step."""
        path = []
        ahead = sgdm.get_convention(optimizer.param_groups[0]["convention"]).momentum == "next"
        for t in range(first, first + STEPS):
            for group in optimizer.param_groups:
                if lrs is not None:
                    group["lr"] = lrs[t]
                if momenta is not None:
                    group["momentum"] = momenta[t + ahead]

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


def continued(source, target, problem, given, lrs=None, momenta=None, **options):
    """The paths of a run that goes on, and of one that is converted in between."""
    ends = []
    for to in (None, target):
        params = problem.params()
        optimizer = sgdm.SGD(params, convention=source.name, **given)
        problem.go(optimizer, params, 0, lrs, momenta)
        if to is not None:
            if lrs is not None:
                options["lr"] = lrs[STEPS]
            convert_(optimizer, to=to.name, **options)
        ends.append(problem.go(optimizer, params, STEPS, lrs, momenta))
    return [torch.stack(path) for path in ends]


@pytest.mark.parametrize("source", RUNNING, ids=lambda row: row.name)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
def test_every_pair_goes_on_as_if_nothing_had_happened(source, nesterov, weight_decay, seed):
    """With constant hyperparameters, to 1e-11; what has no equal is refused and left alone."""
    problem = Problem(seed)
    given = given_of(source, nesterov, weight_decay)
    converted = 0
    for target in RUNNING:
        try:
            kept, changed = continued(source, target, problem, given)
        except InvalidUseError as error:
            assert "cannot be converted" in str(error)  # noqa: PT017 - either of the two
            continue
        converted += 1
        assert (kept - changed).abs().max() < 1e-11 * kept.abs().max(), target.name
    assert converted >= 1


@pytest.mark.parametrize("nesterov", [False, True])
def test_what_is_always_the_same_is_so_under_a_schedule(nesterov, seed):
    rng = np.random.default_rng(seed)
    problem = Problem(seed)
    lrs = rng.uniform(0.01, 0.1, 2 * STEPS + 1).tolist()
    compared = 0
    for source in RUNNING:
        for target in RUNNING[::6]:
            options = {"nesterov": True} if nesterov else {}
            try:
                found = compare_conventions(source, target, **options)
            except InvalidValueError:
                continue
            looks = {source.nesterov, target.nesterov}
            if found.identical != "always" or not looks <= (
                {"optional", "always"} if nesterov else {"optional", "never"}
            ):
                continue
            given = given_of(source, nesterov, 0.0)
            kept, changed = continued(source, target, problem, given, lrs)
            compared += 1
            assert (kept - changed).abs().max() < 1e-11 * kept.abs().max(), (
                source.name,
                target.name,
            )
    assert compared > 40


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
    problem = Problem(seed)
    values: dict[str, Any] = {"lr": 0.07, "momentum": 0.8, **given}
    rows = sgdm.get_convention(source), sgdm.get_convention(target)
    kept, changed = continued(*rows, problem, values, port=True)
    assert (kept - changed).abs().max() < 1e-11 * kept.abs().max()


def test_the_upcoming_lr_counts(seed):
    """Converted before the step with which the learning rate falls, by the new one."""
    problem = Problem(seed)
    lrs = [0.1] * STEPS + [0.01] * (STEPS + 1)
    rows = sgdm.get_convention("keras3"), sgdm.get_convention("torch")
    kept, changed = continued(*rows, problem, {"lr": 0.1, "momentum": 0.9}, lrs)
    assert (kept - changed).abs().max() < 1e-11 * kept.abs().max()


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
