"""Every scheduler of torch works, those that cycle momentum too, with the bits of torch's SGD."""

import inspect

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

import sgdm

STEPS = 40

MAKE = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.95**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.97),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 7),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [5, 20]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 10),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=10),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, STEPS, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 9),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, step_size_up=6),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=STEPS + 1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], [10]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], o
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.05),
}
CYCLES_MOMENTUM = ("CyclicLR", "OneCycleLR")


def test_no_scheduler_of_torch_is_left_out():
    base = {"LRScheduler"}
    names = {
        name
        for name in lr_scheduler.__all__
        if inspect.isclass(getattr(lr_scheduler, name)) and name not in base
    }
    assert names <= set(MAKE)


def path(cls, make, arguments) -> tuple[np.ndarray, list[float]]:
    """Train a fixed problem under a scheduler; return the parameters and the momenta used."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(9))
    optimizer = cls([p], lr=0.1, **arguments)
    scheduler = make(optimizer)
    points, momenta = [], []
    for t in range(STEPS):
        p.grad = torch.sin(p.detach() * (t + 1))
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(float(t % 3))
        else:
            scheduler.step()
        points.append(p.detach().numpy().copy())
    return np.stack(points), momenta


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_bits_under_a_scheduler(name, nesterov):
    arguments = {"momentum": 0.9, "nesterov": nesterov, "weight_decay": 1e-2}
    mine, momenta = path(sgdm.SGD, MAKE[name], arguments)
    theirs, _ = path(torch.optim.SGD, MAKE[name], {**arguments, "foreach": False})
    assert np.array_equal(mine, theirs)
    assert (len(set(momenta)) > 1) == (name in CYCLES_MOMENTUM)


@pytest.mark.parametrize("name", MAKE)
def test_from_torch_goes_on_under_a_scheduler_by_the_documented_recipe(name):
    """Build it on the new optimizer, load its state, then the old optimizer's."""
    ends = []
    for taken_over in (False, True):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(9))
        running = torch.optim.SGD([p], lr=0.1, momentum=0.9, foreach=False)
        optimizer: torch.optim.Optimizer = running
        scheduler = MAKE[name](running)
        for t in range(20):
            if t == 8 and taken_over:
                optimizer = sgdm.SGD.from_torch(running)
                fresh = MAKE[name](optimizer)
                fresh.load_state_dict(scheduler.state_dict())
                optimizer.load_state_dict(running.state_dict())
                scheduler = fresh
            p.grad = torch.sin(p.detach() * (t + 1))
            optimizer.step()
            if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                scheduler.step(float(t % 3))
            else:
                scheduler.step()
        ends.append(p.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("convention", ["caffe", "bengio"])
def test_other_conventions_run_under_it(name, convention):
    points, _ = path(sgdm.SGD, MAKE[name], {"momentum": 0.9, "convention": convention})
    assert np.isfinite(points).all()
    assert not np.array_equal(points[0], points[-1])
