"""What is kept: state dicts both ways with torch, copies, and the probing step of libraries."""

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import sgdm
from cases import EVERY_RULE, TORCH_DAMPENED
from driving import Problem, buffer_of, drive, make, parameter, step_with
from sgdm.recurrence import first_step_differs


def test_state_dict_has_torchs_layout():
    p, q = parameter(1.0), parameter(1.0)
    mine, theirs = sgdm.SGD([p], momentum=0.9), torch.optim.SGD([q], momentum=0.9)
    step_with(mine, 1.0)
    step_with(theirs, 1.0)
    a, b = mine.state_dict(), theirs.state_dict()
    assert a["state"].keys() == b["state"].keys()
    assert a["state"][0].keys() == b["state"][0].keys() == {"momentum_buffer"}
    assert a["param_groups"][0].items() >= b["param_groups"][0].items()
    assert a["param_groups"][0]["convention"] == "torch"


@pytest.mark.parametrize(
    "convention", ["caffe", "negated", "sutskever", "nag", "bengio-lr-outside"]
)
def test_torchs_buffers_are_refused_where_they_mean_something_else(convention):
    p, q = parameter(1.0), parameter(1.0)
    theirs = torch.optim.SGD([q], lr=0.1, momentum=0.9)
    step_with(theirs, 1.0)
    mine = sgdm.SGD([p], lr=0.7, momentum=0.9, convention=convention)
    with pytest.raises(ValueError, match=f"state_dict must be of convention '{convention}'"):
        mine.load_state_dict(theirs.state_dict())
    assert mine.param_groups[0]["lr"] == 0.7
    assert not mine.state


@pytest.mark.parametrize(
    ("theirs", "own", "message"),
    [
        ({"dampening": 0.5}, "caffe", "dampening must be 0 for convention 'caffe'"),
        ({"nesterov": True}, "negated", "nesterov must be False for convention 'negated'"),
        ({"lr": float("nan")}, "torch", "Invalid learning rate: nan"),
        ({"weight_decay_mode": "half"}, "torch", "weight_decay_mode must be None or one of"),
    ],
)
def test_hyperparameters_without_a_place_in_the_rule_are_refused_at_loading(theirs, own, message):
    source = torch.optim.SGD([parameter(1.0)], lr=0.1, momentum=0.9)
    source.param_groups[0].update(theirs)
    mine = sgdm.SGD([parameter(1.0)], lr=0.7, convention=own)
    with pytest.raises(ValueError, match=message):
        mine.load_state_dict(source.state_dict())
    assert mine.param_groups[0]["lr"] == 0.7


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_a_buffer_that_is_no_float_is_cast_as_torch_does(dtype):
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.5, momentum=0.5)
    saved = optimizer.state_dict()
    saved["state"][0] = {"momentum_buffer": torch.ones(1, dtype=dtype)}
    optimizer.load_state_dict(saved)
    step_with(optimizer, 1.0)
    assert p.item() == 0.25


@pytest.mark.parametrize(
    ("buffer", "gradient", "message"),
    [
        (torch.ones(2).to_sparse(), torch.ones(2), "the gradient must have the layout of its"),
        (torch.ones(2), torch.ones(2).to_sparse(), "the gradient must have the layout of its"),
        (torch.ones(2, dtype=torch.complex64), torch.ones(2), "momentum_buffer must be of a dtype"),
    ],
)
def test_a_buffer_that_cannot_meet_its_gradient_is_refused_before_the_first_write(
    buffer, gradient, message
):
    p, q = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = sgdm.SGD([p, q], lr=0.1, momentum=0.9, nesterov=True)
    optimizer.state[q] = {"momentum_buffer": buffer}
    p.grad, q.grad = torch.ones(2), gradient
    with pytest.raises(sgdm.errors.SgdmError, match=message):
        optimizer.step()
    assert torch.equal(p, torch.ones(2))
    assert p not in optimizer.state


def test_a_state_dict_of_another_convention_is_refused():
    p, q = parameter(1.0), parameter(1.0)
    caffe = sgdm.SGD([q], lr=0.1, convention="caffe")
    with pytest.raises(ValueError, match=r"convention must be 'torch' .* got 'caffe'"):
        sgdm.SGD([p]).load_state_dict(caffe.state_dict())


def test_a_dict_of_torch_without_buffers_fits_every_convention():
    p, q = parameter(1.0), parameter(1.0)
    mine = sgdm.SGD([p], convention="caffe", weight_decay_mode="lr/lr0", lr=0.25)
    mine.load_state_dict(torch.optim.SGD([q], lr=0.5, momentum=0.3).state_dict())
    group = mine.param_groups[0]
    assert (group["lr"], group["momentum"], group["convention"]) == (0.5, 0.3, "caffe")
    assert (group["weight_decay_mode"], group["lr0"]) == ("lr/lr0", 0.25)


def test_a_buffer_of_none_is_no_buffer():
    """Older torch wrote momentum_buffer: None; the first step is still to come."""
    p = parameter(1.0)
    optimizer = make(TORCH_DAMPENED, [p], lr=1.0)
    saved = optimizer.state_dict()
    saved["state"][0] = {"momentum_buffer": None}
    optimizer.load_state_dict(saved)
    step_with(optimizer, 1.0)
    assert p.item() == 0.0


def test_a_buffer_of_another_shape_is_refused_at_loading_and_nothing_is_loaded():
    p, q = parameter(1.0, 2.0), parameter(1.0)
    saved = sgdm.SGD([q], momentum=0.9)
    step_with(saved, 1.0)
    mine = sgdm.SGD([p], momentum=0.8)
    with pytest.raises(ValueError, match=r"momentum_buffer must be of shape \(2,\)"):
        mine.load_state_dict(saved.state_dict())
    assert mine.param_groups[0]["momentum"] == 0.8


def test_a_wrong_number_of_groups_is_torchs_error():
    p, q, r = parameter(1.0), parameter(1.0), parameter(1.0)
    two = sgdm.SGD([{"params": [p]}, {"params": [q]}])
    for saved, own in ((two, sgdm.SGD([r])), (sgdm.SGD([r]), two)):
        with pytest.raises(ValueError, match="different number of parameter groups"):
            own.load_state_dict(saved.state_dict())


@pytest.mark.parametrize("buffer_dtype", [torch.float32, torch.float64])
def test_a_buffer_keeps_its_dtype_when_loaded(buffer_dtype):
    p = parameter(1.0, 2.0, dtype=torch.bfloat16)
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9)
    saved = optimizer.state_dict()
    held = torch.tensor([1 / 3, 1 / 7], dtype=buffer_dtype)
    saved["state"][0] = {"momentum_buffer": held}
    seen = []
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(buffer_of(o, p).dtype))
    optimizer.load_state_dict(saved)
    assert seen == [buffer_dtype]
    assert torch.equal(buffer_of(optimizer, p), held)
    step_with(optimizer, 1.0)
    assert buffer_of(optimizer, p).dtype == buffer_dtype
    assert torch.equal(held, torch.tensor([1 / 3, 1 / 7], dtype=buffer_dtype))


def test_the_users_load_hooks_run_around_the_checks():
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], convention="caffe")

    def rename(_, loaded):
        groups = [{**group, "convention": "caffe"} for group in loaded["param_groups"]]
        return {**loaded, "param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(rename)
    optimizer.load_state_dict(sgdm.SGD([parameter(1.0)], lr=0.5).state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1


def test_a_state_dict_is_plain_data_for_weights_only_loading():
    p = parameter(1.0)
    optimizer = make(TORCH_DAMPENED, [p])
    step_with(optimizer, 1.0)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded["state"][0]["steps"] == 1


def test_names_of_parameters_are_kept():
    model = torch.nn.Linear(2, 1)
    optimizer = sgdm.SGD(model.named_parameters(), momentum=0.9)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["param_names"] == ["weight", "bias"]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_alike(copied):
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], momentum=0.9, convention="bengio", engine="eager")
    step_with(optimizer, 1.0)
    twin = copied(optimizer)
    assert twin.engine == "eager"
    (q,) = twin.param_groups[0]["params"]
    assert q is not p
    for each in (optimizer, twin):
        step_with(each, 0.5)
    assert torch.equal(p, q)


def test_a_dict_without_newer_keys_takes_the_constructors():
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], maximize=True)
    saved = optimizer.state_dict()
    del saved["param_groups"][0]["maximize"]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["maximize"] is True


# ---- the step that checkpoint libraries probe with ----


@pytest.mark.parametrize("case", EVERY_RULE, ids=str)
def test_the_probing_step_makes_zeros_and_leaves_the_first_step_to_come(case, seed):
    problem = Problem(seed)
    everywhere = np.ones_like(problem.present)
    ends = []
    for probed in (False, True):
        params = problem.params()
        optimizer = make(case, params, weight_decay=0.1)
        if probed:
            before = [p.detach().clone() for p in params]
            for p in params:
                p.grad = torch.zeros_like(p)
            optimizer.param_groups[0]["lr"] = 0.0
            optimizer.step(closure=None)
            assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
            assert all(not buffer_of(optimizer, p).any() for p in params)
            steps = [optimizer.state[p].get("steps") for p in params]
            h = case.hyperparameters(0, problem.eps, problem.mu)
            assert steps == [0 if first_step_differs(case.row, h) else None] * 3
        path = drive(optimizer, params, problem.gradient, problem.eps, problem.mu, everywhere)
        ends.append(path[-1])
    for a, b in zip(*ends, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("mode", ["coupled", "lr", "lr/lr0", "absolute"])
def test_the_probing_step_decays_nothing(mode):
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.5, weight_decay_mode=mode)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.0)
    step_with(optimizer, 0.0)
    assert p.item() == 1.0
    assert buffer_of(optimizer, p).item() == 0.0


def test_a_first_step_at_lr_zero_with_a_gradient_is_an_ordinary_one():
    """Warm-up from 0: torch's bits, not a probe."""
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.0, momentum=0.9, weight_decay=0.5)
    step_with(optimizer, 2.0)
    assert buffer_of(optimizer, p).item() == 2.5


def test_what_is_no_probe_is_an_ordinary_step():
    """Some lr is not 0; there is state already; a closure is given; a gradient is sparse."""
    some_lr = sgdm.SGD(
        [{"params": [parameter(1.0)]}, {"params": [parameter(1.0)], "lr": 0.1}], lr=0
    )
    started = sgdm.SGD([parameter(1.0)], lr=0.0)
    with_closure = sgdm.SGD([parameter(1.0)], lr=0.0)
    for optimizer in (some_lr, started, with_closure):
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for group in optimizer.param_groups:
            group.update(momentum=0.9, weight_decay=0.5)
        if optimizer is started:
            optimizer.state[params[0]] = {"momentum_buffer": torch.zeros(1, dtype=torch.float64)}
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step(lambda: None) if optimizer is with_closure else optimizer.step()
        assert buffer_of(optimizer, params[0]).item() == 0.5
    p = parameter(1.0, 2.0)
    sparse = sgdm.SGD([p], lr=0.0, momentum=0.9)
    p.grad = torch.zeros_like(p).to_sparse()
    sparse.step()
    assert buffer_of(sparse, p).is_sparse


def test_torch_distributed_checkpoint_probes_and_loads(seed):
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    def make_model():
        return torch.nn.Linear(3, 2)

    def advance(model, optimizer):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()

    model = make_model()
    arguments: Any = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}
    optimizer = sgdm.SGD(model.parameters(), **arguments)
    advance(model, optimizer)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    twin = make_model()
    twin.load_state_dict(model.state_dict())
    resumed = sgdm.SGD(twin.parameters(), **arguments)
    set_optimizer_state_dict(twin, resumed, saved)
    advance(model, optimizer)
    advance(twin, resumed)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
