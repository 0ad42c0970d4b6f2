"""Around the step: options that are set later, checkpoints, hooks, other threads and devices."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch

import sgdm
from driving import parameter, step_with
from sgdm.errors import InvalidTypeError, InvalidValueError

ENGINES = pytest.mark.parametrize("engine", ["native", "eager"])


@ENGINES
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_only_measures_does_not_scale_by_a_norm_that_is_not_finite(engine, bad):
    p = parameter(1.0, 1.0)
    optimizer = sgdm.SGD([p], lr=0.5, max_grad_norm=math.inf, engine=engine)
    step_with(optimizer, [bad, 1.0])
    assert p[1].item() == 0.5


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_grad_norm", -1.0, InvalidValueError),
        ("max_grad_norm", 0, InvalidValueError),
        ("max_grad_norm", "1", InvalidTypeError),
        ("nonfinite", "raize", InvalidValueError),
    ],
)
def test_an_option_that_is_set_later_is_checked_too(name, value, error):
    optimizer = sgdm.SGD([parameter(1.0)], max_grad_norm=2.0)
    with pytest.raises(error, match=name):
        setattr(optimizer, name, value)
    assert (optimizer.max_grad_norm, optimizer.nonfinite) == (2.0, "propagate")


@ENGINES
def test_a_decay_that_is_a_fraction_is_a_number(engine):
    p = parameter(0.0)
    decay: Any = Fraction(1, 2)
    optimizer = sgdm.SGD([p], lr=1.0, ema_decay=decay, engine=engine)
    for _ in range(2):
        step_with(optimizer, [1.0])
    with optimizer.averaged():
        assert p.item() == -1.5


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_averages_come_back_through_the_probe_of_a_checkpoint_library(momentum):
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    torch.manual_seed(0)
    model, fresh_model = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    arguments: dict[str, Any] = {"lr": 0.1, "momentum": momentum, "ema_decay": 0.5}
    optimizer = sgdm.SGD(model.parameters(), **arguments)
    for _ in range(3):
        step_with(optimizer, torch.randn(2, 2), torch.randn(2))
    saved = get_optimizer_state_dict(model, optimizer)
    fresh = sgdm.SGD(fresh_model.parameters(), **arguments)
    get_optimizer_state_dict(fresh_model, fresh)  # asks which state there will be
    assert all("average" in fresh.state[p] for p in fresh_model.parameters())
    set_optimizer_state_dict(fresh_model, fresh, saved)
    fresh_model.load_state_dict(model.state_dict())
    g = torch.randn(2, 2), torch.randn(2)
    step_with(optimizer, *g)
    step_with(fresh, *g)
    for p, q in zip(model.parameters(), fresh_model.parameters(), strict=True):
        assert torch.equal(optimizer.state[p]["average"], fresh.state[q]["average"])


def test_averages_that_the_probe_made_are_not_the_beginning_of_a_run():
    p = parameter(5.0)
    optimizer = sgdm.SGD([p], lr=0.0, ema_decay=0.5)
    step_with(optimizer, [0.0])
    assert "average" in optimizer.state[p]
    optimizer.param_groups[0]["lr"] = 1.0
    step_with(optimizer, [1.0])
    assert optimizer.state[p]["average"].item() == 4.0


def test_a_pickle_from_before_the_options_goes_on():
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.5, momentum=0.9)
    step_with(optimizer, [1.0])
    kept = optimizer.__getstate__()
    del kept["_max_grad_norm"], kept["_nonfinite"]
    for settings in (kept["defaults"], *kept["param_groups"]):
        del settings["ema_decay"], settings["buffer_dtype"]
    old = sgdm.SGD.__new__(sgdm.SGD)
    old.__setstate__(kept)
    step_with(old, [1.0])
    assert p.item() == pytest.approx(1 - 0.5 - 0.5 * 1.9)


def test_a_subclass_that_has_its_own_step_calls_hooks_once():
    class Mine(sgdm.SGD):
        def step(self, closure=None):
            return super().step(closure)

    optimizer, calls = Mine([parameter(1.0)]), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    step_with(optimizer, [1.0])
    assert calls == ["before", "after"]


def test_a_hook_may_replace_the_closure():
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=1.0)

    def replace_closure(_, args, kwargs):
        return args, {**kwargs, "closure": lambda: 7.0}

    optimizer.register_step_pre_hook(replace_closure)
    assert optimizer.step(closure=lambda: 1.0) == 7.0


def test_a_step_while_another_thread_compiles(monkeypatch):
    """torch's flag for "compiling" is one for all threads."""
    monkeypatch.setattr(torch.compiler, "_is_compiling_flag", True)
    assert torch.compiler.is_compiling()
    p = parameter(1.0)
    step_with(sgdm.SGD([p], lr=1.0), [1.0])
    assert p.item() == 0.0


def test_a_first_step_under_another_default_device():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = sgdm.SGD([p], lr=0.5, momentum=0.9, engine="native")
    with torch.device("meta"):
        optimizer.step()
    assert torch.equal(p, torch.full((2,), 0.5))


@pytest.mark.parametrize("engine", ["auto", "native", "eager"])
def test_a_coefficient_beyond_float32_is_refused_before_the_first_write(engine):
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = sgdm.SGD([p], lr=1e39, momentum=0.9, engine=engine)
    p.grad = torch.ones(2)
    with pytest.raises(InvalidValueError, match=r"the coefficient step, made of lr .* of float32"):
        optimizer.step()
    assert torch.equal(p, torch.ones(2))
    assert not optimizer.state


def test_a_state_that_is_no_tensor_is_refused_and_one_that_is_none_is_left_out():
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], ema_decay=0.5)
    saved = optimizer.state_dict()
    saved["state"] = {0: {"average": 3.0}}
    with pytest.raises(InvalidTypeError) as caught:
        optimizer.load_state_dict(saved)
    assert str(caught.value) == (
        "average must be a tensor, got 3.0; load the state of this very model"
    )
    saved["state"] = {0: {"average": None}}
    optimizer.load_state_dict(saved)
    with optimizer.averaged():
        assert p.item() == 1.0
