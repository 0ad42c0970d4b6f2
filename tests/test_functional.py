"""A step as a function: the bits of the optimizer, nothing written in place, and autograd."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import sgdm
from cases import EVERY_RULE, Case
from sgdm.errors import InvalidUseError, InvalidValueError
from sgdm.functional import StepState, step
from sgdm.recurrence import needs_closure


def closes(case: Case) -> bool:
    return needs_closure(case.row, case.hyperparameters(0, lambda t: 0.1, lambda t: 0.9))


ORDINARY = [case for case in EVERY_RULE if not closes(case)]


@pytest.mark.parametrize("engine", ["eager", "native"])
@pytest.mark.parametrize("case", ORDINARY, ids=str)
def test_it_has_the_bits_of_the_optimizer(case, engine, seed):
    """Under a moving lr and momentum, with a gradient that comes late and one that is missing."""
    more: dict[str, Any] = {**case.options, "weight_decay": 0.1, "ema_decay": 0.9}
    params = {"w": torch.randn(3, 4), "b": torch.randn(4), "late": torch.randn(2)}
    twins = {name: nn.Parameter(p.clone()) for name, p in params.items()}
    optimizer = sgdm.SGD(
        twins.values(),
        lr=0.1,
        momentum=0.9,
        convention=case.convention,
        engine=engine,
        max_grad_norm=0.5,
        **more,
    )
    state = None
    for t in range(6):
        lr, momentum = 0.1 * 0.7**t, 0.9 - 0.1 * (t % 3)
        gradients = {name: torch.randn_like(p) for name, p in params.items()}
        if t < 2:
            del gradients["late"]
        optimizer.param_groups[0].update(lr=lr, momentum=momentum)
        for name, p in twins.items():
            p.grad = gradients.get(name)
        optimizer.step()
        params, state = step(
            params,
            {"late": None, **gradients},
            state,
            lr=lr,
            momentum=momentum,
            convention=case.convention,
            engine=engine,
            max_grad_norm=0.5,
            **more,
        )
    assert all(torch.equal(params[name], p) for name, p in twins.items())
    assert state is not None
    for name, p in twins.items():
        assert state.params[name].keys() == optimizer.state[p].keys()
        for key, value in optimizer.state[p].items():
            assert torch.equal(torch.as_tensor(state.params[name][key]), torch.as_tensor(value))
    group = optimizer.param_groups[0]
    assert state.group == {key: group[key] for key in state.group}


@pytest.mark.parametrize("differentiable", [False, True])
def test_nothing_is_written_in_place(differentiable):
    params, gradients = {"w": torch.ones(3)}, {"w": torch.ones(3)}
    first, state = step(params, gradients, lr=0.1, momentum=0.9, ema_decay=0.5)
    _, last = step(first, gradients, state, lr=0.1, momentum=0.9, ema_decay=0.5)
    kept = [first["w"].clone(), state.params["w"]["momentum_buffer"].clone()]
    kept.append(state.params["w"]["average"].clone())
    settings: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "ema_decay": 0.5}
    again, same = step(first, gradients, state, differentiable=differentiable, **settings)
    own = state.params["w"]
    assert all(map(torch.equal, kept, [first["w"], own["momentum_buffer"], own["average"]]))
    assert torch.equal(params["w"], torch.ones(3))
    assert torch.equal(gradients["w"], torch.ones(3))
    assert not torch.equal(again["w"], first["w"])
    assert torch.equal(
        last.params["w"]["momentum_buffer"], same.params["w"]["momentum_buffer"].detach()
    )


def test_parameters_that_require_a_gradient_are_taken():
    params = dict(nn.Linear(2, 1).named_parameters())
    new, _ = step(params, {"weight": torch.ones(1, 2)}, lr=0.5)
    assert not new["weight"].requires_grad
    assert torch.equal(new["bias"], params["bias"])
    assert torch.equal(new["weight"], params["weight"].detach() - 0.5)


def test_autograd_goes_through_steps():
    """The derivative by lr of two steps on p²/2 from 1: p = (1-ε)² - μ·ε."""
    lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    p = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    params, state = {"p": p}, None
    for _ in range(2):
        params, state = step(
            params, {"p": params["p"]}, state, lr=lr, momentum=0.5, differentiable=True
        )
    torch.testing.assert_close(params["p"].item(), 0.7**2 - 0.5 * 0.3)
    by_lr, by_p = torch.autograd.grad(params["p"].sum(), [lr, p])
    torch.testing.assert_close(by_lr.item(), -2 * 0.7 - 0.5)
    torch.testing.assert_close(by_p.item(), 0.7**2 - 0.5 * 0.3)


def test_the_state_is_made_of_dicts(tmp_path):
    convention = "bengio"
    params, state = {"w": torch.ones(2)}, None
    for _ in range(2):
        params, state = step(params, params, state, lr=0.1, momentum=0.9, convention=convention)
    assert state is not None
    torch.save(tuple(state), tmp_path / "state.pt")
    loaded = StepState(*torch.load(tmp_path / "state.pt", weights_only=True))
    ends = [
        step(params, params, s, lr=0.1, momentum=0.9, convention=convention)[0]["w"]
        for s in (state, loaded)
    ]
    assert torch.equal(*ends)
    leaves = tree_leaves(state)
    assert any(isinstance(leaf, torch.Tensor) for leaf in leaves)


def test_a_gradient_of_no_parameter_is_refused():
    text = "gradients must be of parameters that are given, got ['v']; use the same names"
    with pytest.raises(InvalidValueError, match=re.escape(text)):
        step({"w": torch.ones(2)}, {"v": torch.ones(2)})


def test_state_of_no_parameter_is_refused():
    _, state = step({"w": torch.ones(2)}, {"w": torch.ones(2)}, momentum=0.9)
    text = "state must be of parameters that are given, got ['w']; use the same names"
    with pytest.raises(InvalidValueError, match=re.escape(text)):
        step({"v": torch.ones(2)}, {}, state)


def test_a_gradient_elsewhere_is_refused():
    text = "nesterov must be False with convention 'sutskever' in sgdm.functional.step, whose"
    with pytest.raises(InvalidUseError, match=re.escape(text)):
        step({}, {}, momentum=0.9, nesterov=True, convention="sutskever")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"lr": -1.0}, "lr must be"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be"),
        ({"nesterov": True}, "Nesterov momentum requires a momentum"),
        ({"convention": "tirch"}, "convention must be"),
    ],
)
def test_hyperparameters_are_checked(arguments, text):
    with pytest.raises(InvalidValueError, match=re.escape(text)):
        step({"w": torch.ones(2)}, {"w": torch.ones(2)}, **arguments)
