"""torch's own cases for its SGD (inputs, error inputs, schedulers, sparse) pass with `sgdm.SGD`."""

import warnings
from copy import deepcopy

import pytest
import torch

import sgdm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's test helpers import what they deprecate
    from torch.testing._internal.common_optimizers import (
        OptimizerErrorEnum,
        _get_optim_inputs_including_global_cliquey_kwargs,
        optim_db,
    )

(INFO,) = (info for info in optim_db if info.name == "SGD")
DEVICE = "cpu"
INPUTS = _get_optim_inputs_including_global_cliquey_kwargs(DEVICE, torch.float32, INFO)
assert INFO.optim_error_inputs_func is not None
ERRORS = INFO.optim_error_inputs_func(DEVICE, torch.float32)


def model_of(dtype: torch.dtype):
    """The sizes of torch's own correctness tests, and one that fills vectors."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.Sigmoid(), torch.nn.Linear(3, 77), torch.nn.Sigmoid()
    ).to(dtype)


def train(cls, arguments, dtype, steps=20) -> list[torch.Tensor]:
    model = model_of(dtype)
    x = torch.randn(8, 2, dtype=dtype)
    params = list(model.parameters())
    if arguments.get("differentiable"):
        params = [p.clone() for p in params]
        for p in params:
            p.retain_grad()
    optimizer = cls(params, **deepcopy(arguments))
    for _ in range(steps):
        optimizer.zero_grad()
        if arguments.get("differentiable"):
            for p in params:
                p.grad = torch.cos(p.detach())
        else:
            model(x).square().sum().backward()
        optimizer.step()
    return [p.detach().clone() for p in params]


def loop_of(arguments: dict) -> dict:
    """The same input on torch's loop, whose bits are the contract."""
    return {**arguments, "foreach": False, "fused": False}


@pytest.mark.parametrize("case", INPUTS, ids=lambda case: case.desc)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs(case, dtype):
    theirs = train(torch.optim.SGD, loop_of(case.kwargs), dtype)
    mine = train(sgdm.SGD, case.kwargs, dtype)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


# With differentiable=True the parameters are no leaves; there is no model to save.
SAVED = [case for case in INPUTS if not case.kwargs.get("differentiable")]


@pytest.mark.parametrize("case", SAVED, ids=lambda case: case.desc)
def test_inputs_save_and_load(case):
    model = model_of(torch.float32)
    optimizer = sgdm.SGD(model.parameters(), **deepcopy(case.kwargs))
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    saved = deepcopy(optimizer.state_dict())
    fresh = sgdm.SGD(model.parameters(), **deepcopy(case.kwargs))
    fresh.load_state_dict(saved)
    loaded = fresh.state_dict()
    assert loaded["param_groups"] == saved["param_groups"]
    assert loaded["state"].keys() == saved["state"].keys()
    for key, state in saved["state"].items():
        assert loaded["state"][key].keys() == state.keys()
        assert torch.equal(loaded["state"][key]["momentum_buffer"], state["momentum_buffer"])


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.optimizer_error_input.desc)
def test_error_inputs(case):
    assert case.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
    given = case.optimizer_error_input
    params = given.params or [torch.nn.Parameter(torch.randn(1, 1))]
    if case.error_type is UserWarning:
        with pytest.warns(UserWarning, match=case.error_regex):
            sgdm.SGD(params, **given.kwargs)
    else:
        with pytest.raises(case.error_type, match=case.error_regex):
            sgdm.SGD(params, **given.kwargs)


def fit(cls, arguments, schedulers, *, sparse_row: bool = False) -> list[float]:
    """torch's "goes in the right direction": a line, or one row of a sparse table."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(10, 5))
    target = torch.randn(5)
    optimizer = cls([weight], **arguments)
    made = [make(optimizer) for make in schedulers]
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = ((weight[3] if sparse_row else weight.mean(0)) - target).square().sum()
        loss.backward()
        if sparse_row:
            assert weight.grad is not None
            weight.grad = weight.grad.to_sparse(1)
        optimizer.step()
        for scheduler in made:
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                scheduler.step(loss.detach())
            else:
                scheduler.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("index", range(len(INFO.scheduler_inputs)))
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_scheduler_inputs(index, momentum):
    arguments = {"lr": 0.5, "momentum": momentum, "foreach": False}
    theirs = fit(torch.optim.SGD, arguments, INFO.scheduler_inputs[index])
    mine = fit(sgdm.SGD, arguments, INFO.scheduler_inputs[index])
    assert mine == theirs
    assert mine[-1] < mine[0]


def test_sparse_metadata():
    arguments, schedulers = INFO.metadata_for_sparse
    theirs = fit(torch.optim.SGD, arguments, schedulers, sparse_row=True)
    mine = fit(sgdm.SGD, arguments, schedulers, sparse_row=True)
    assert mine == theirs
    assert mine[-1] < mine[0]


def test_capabilities():
    """What torch's row promises of its SGD is what these tests and test_optimizer.py try."""
    assert INFO.supports_sparse
    assert INFO.supports_complex
    assert INFO.supports_param_groups
    assert not INFO.has_capturable_arg
    assert not INFO.step_requires_closure
    assert set(INFO.supported_impls) == {"foreach", "fused", "differentiable"}
