"""`sgdm.SGD` against the literal equations; its steps, groups, refusals; autograd through it."""

import copy
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

import sgdm
from cases import CASES, TORCH, TORCH_DAMPENED, TORCH_NESTEROV
from driving import Problem, buffer_of, drive, make, parameter, step_with
from reference import run, shrinking


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("decay", [None, "coupled", "lr", "lr/lr0", "absolute"])
def test_the_optimizer_is_the_literal_equation(case, decay, seed):
    """Random lr and momentum at every step, every parameter missing gradients of its own."""
    problem = Problem(seed)
    params = problem.params()
    strength, lr0 = 0.05, 0.25
    optimizer = make(
        case, params, lr=lr0, weight_decay=strength if decay else 0.0, weight_decay_mode=decay
    )
    path = drive(optimizer, params, problem.gradient, problem.eps, problem.mu, problem.present)

    def kept(t):
        shares = {"lr": problem.eps(t), "lr/lr0": problem.eps(t) / lr0, "absolute": 1.0}
        return 1 - shares.get(decay, 0.0) * strength

    def gradient(x, t):
        return problem.gradient(x, t) + (strength * x if decay == "coupled" else 0.0)

    for i, start in enumerate(problem.starts):
        expected, _, _ = run(
            shrinking(case.twin, kept),
            start,
            gradient,
            problem.eps,
            problem.mu,
            problem.present[:, i],
        )
        actual = np.stack([point[i] for point in path])
        assert np.abs(actual - expected).max() <= 1e-12 * max(1.0, np.abs(expected).max())


# ---- steps ----


@pytest.mark.parametrize("convention", ["torch", "bengio"])
@pytest.mark.parametrize("flat", [False, True])
def test_torch_distributed_checkpoint_keeps_the_iterate(convention, flat):
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    # Both at once fail with every optimizer, torch's own too (2.13.0).
    options = StateDictOptions(full_state_dict=not flat, flatten_optimizer_state_dict=flat)
    model, twin = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    arguments: Any = {"lr": 0.5, "momentum": 0.9, "nesterov": True, "convention": convention}
    optimizer = sgdm.SGD(model.parameters(), **arguments)
    (p,), (q,) = model.parameters(), twin.parameters()
    p.grad = torch.ones_like(p)
    optimizer.step()
    with optimizer.at_iterate():
        theta = p.detach().clone()
    optimizer.param_groups[0]["lr"] = 100.0
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    resumed = sgdm.SGD(twin.parameters(), **arguments)
    set_optimizer_state_dict(twin, resumed, saved, options=options)
    with torch.no_grad():
        q.copy_(p)
    with resumed.at_iterate():
        assert torch.equal(q, theta)


def test_the_probe_is_for_tensors_with_numbers():
    p = torch.nn.Parameter(torch.ones(2, device="meta"))
    optimizer = sgdm.SGD([p], lr=0.0, momentum=0.9)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert buffer_of(optimizer, p).is_meta


def test_a_count_of_zero_that_torch_has_passed_by_is_over():
    """Probed by sgdm, three steps of torch's, and back: the momentum is not thrown away."""
    p, q = parameter(0.0), parameter(0.0)
    probed = make(TORCH_DAMPENED, [p], lr=0.0)
    step_with(probed, 0.0)
    theirs = torch.optim.SGD([q], lr=1.0, momentum=0.9)
    theirs.load_state_dict(probed.state_dict())
    theirs.param_groups[0]["lr"] = 1.0
    for _ in range(3):
        q.grad = torch.ones_like(q)
        theirs.step()
    again = make(TORCH_DAMPENED, [p], lr=1.0)
    again.load_state_dict(theirs.state_dict())
    held = buffer_of(again, p).item()
    step_with(again, 1.0)
    assert buffer_of(again, p).item() == pytest.approx(0.9 * held + 0.7)


def test_steps_are_counted_only_where_the_first_one_differs():
    p = parameter(0.0)
    optimizer = make(TORCH_DAMPENED, [p], lr=1.0)
    step_with(optimizer, 0.0)  # not a probe: lr is not 0
    assert optimizer.state[p]["steps"] == 1
    optimizer.param_groups[0]["momentum"] = 0
    step_with(optimizer, 1.0)
    assert optimizer.state[p]["steps"] == 1  # frozen
    plain = make(TORCH, [p])
    step_with(plain, 1.0)
    assert "steps" not in plain.state[p]


def test_a_frozen_first_step_stays_to_come():
    """After a probe, momentum 0 neither reads the zeros nor uses up the undamped first step."""
    p = parameter(0.0)
    optimizer = make(TORCH_DAMPENED, [p], lr=0.0)
    step_with(optimizer, 0.0)
    group = optimizer.param_groups[0]
    group["lr"], group["momentum"] = 1.0, 0
    step_with(optimizer, 1.0)
    assert (p.item(), optimizer.state[p]["steps"]) == (-1.0, 0)
    group["momentum"] = 0.9
    step_with(optimizer, 1.0)
    assert (p.item(), optimizer.state[p]["steps"]) == (-2.0, 1)


def test_a_first_step_undamped_by_hand_is_over_after_one():
    """Probed with dampening, then set to 0: the count goes on, or every step would be a first."""
    p = parameter(0.0)
    optimizer = make(TORCH_DAMPENED, [p], lr=0.0)
    step_with(optimizer, 0.0)
    optimizer.param_groups[0].update(lr=1.0, dampening=0.0)
    for _ in range(2):
        step_with(optimizer, 1.0)
    assert (p.item(), optimizer.state[p]["steps"]) == (-2.9, 2)


def test_a_step_without_gradients_keeps_the_weight_of_the_iterate():
    p = parameter(1.0)
    optimizer = make(TORCH_NESTEROV, [p], lr=0.1)
    step_with(optimizer, 2.0)
    optimizer.param_groups[0]["lr"] = 5.0
    step_with(optimizer, None)
    with optimizer.at_iterate():
        assert p.item() == pytest.approx(1.0 - 0.1 * 2.0)


def test_an_lr0_that_a_group_brings_is_kept():
    p = parameter(1.0)
    group = {"params": [p], "lr": 0.5, "lr0": 2.0}
    optimizer = sgdm.SGD([group], weight_decay=0.1, weight_decay_mode="lr/lr0")
    step_with(optimizer, 0.0)
    assert p.item() == pytest.approx(1 - 0.25 * 0.1)


def test_a_one_element_lr_that_requires_grad_fits_a_parameter_without_dimensions():
    p = torch.nn.Parameter(torch.tensor(1.0))
    optimizer = sgdm.SGD([p], lr=torch.tensor([0.5], requires_grad=True))
    p.grad = torch.tensor(1.0)
    optimizer.step()
    assert p.item() == 0.5


def test_groups_may_have_conventions_of_their_own():
    p, q = parameter(0.0), parameter(0.0)
    optimizer = sgdm.SGD(
        [{"params": [p]}, {"params": [q], "convention": "caffe"}], lr=0.5, momentum=0.9
    )
    step_with(optimizer, 2.0, 2.0)
    assert buffer_of(optimizer, p).item() == 2.0
    assert buffer_of(optimizer, q).item() == 1.0
    again = sgdm.SGD(
        [{"params": [p]}, {"params": [q], "convention": "caffe"}], lr=0.5, momentum=0.9
    )
    again.load_state_dict(optimizer.state_dict())


def test_lr0_is_the_lr_of_construction():
    p, q = parameter(1.0), parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.5, weight_decay=0.1, weight_decay_mode="lr/lr0")
    optimizer.add_param_group({"params": [q], "lr": 2.0})
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"] = 0.25
    step_with(optimizer, 0.0, 0.0)
    assert p.item() == pytest.approx(1 - 0.5 * 0.1)
    assert q.item() == pytest.approx(1 - 0.125 * 0.1)


@pytest.mark.parametrize("lr0", [float("nan"), -1.0])
def test_an_lr0_out_of_range_is_refused(lr0):
    with pytest.raises(ValueError, match="Invalid learning rate"):
        sgdm.SGD([{"params": [parameter(1.0)], "lr0": lr0}], lr=0.5)


def test_a_row_whose_own_decay_is_relative_runs(monkeypatch):
    from sgdm import frameworks

    monkeypatch.setattr(frameworks, "_BY_NAME", dict(frameworks._BY_NAME))
    row = sgdm.Convention(
        name="relative", title="", lr="outside", sign="gradient", weight_decay="lr/lr0"
    )
    sgdm.register_convention(row)
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.5, weight_decay=0.1, convention="relative")
    optimizer.param_groups[0]["lr"] = 0.25
    step_with(optimizer, 0.0)
    assert p.item() == pytest.approx(1 - 0.5 * 0.1)


def test_every_key_that_is_written_between_steps_acts_at_the_next():
    """Rules are kept until a value is written; equal values of other bits are other values."""
    changes: list[dict[str, Any]] = [
        {"lr": 0.3},
        {"momentum": 0.5},
        {"dampening": 0.25},
        {"weight_decay": 0.2},
        {"weight_decay_mode": "lr"},
        {"weight_decay_mode": "lr/lr0"},
        {"lr0": 3.0},
        {"weight_decay_mode": None, "nesterov": True, "dampening": 0.0},
        {"maximize": True},
        {"nesterov": False, "momentum": 0},
        {"momentum": 0.9, "convention": "caffe"},
    ]
    p, q = parameter(1.0, -2.0), parameter(1.0, -2.0)
    kept = sgdm.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.1)
    for change in changes:
        kept.param_groups[0].update(change)
        fresh = sgdm.SGD([q], lr=0.1, momentum=0.9)
        fresh.param_groups[0].update(
            {k: v for k, v in kept.param_groups[0].items() if k != "params"}
        )
        if p in kept.state:
            fresh.state[q] = {k: v for k, v in kept.state[p].items() if k != "momentum_buffer"}
            fresh.state[q]["momentum_buffer"] = buffer_of(kept, p).clone()
        step_with(kept, 1.0)
        step_with(fresh, 1.0)
        assert torch.equal(p, q), change


def test_a_zero_of_another_sign_or_type_is_another_value():
    """-0.0 + -lr*g keeps its sign with lr = 0.0 and loses it with the int 0, as in torch."""
    for first, then in ((0.0, 0), (0, 0.0), (0.0, -0.0)):
        signs = []
        for cls in (sgdm.SGD, torch.optim.SGD):
            p = parameter(-0.0)
            optimizer = cls([p], lr=first)
            step_with(optimizer, 1.0)
            with torch.no_grad():
                p.fill_(-0.0)
            optimizer.param_groups[0]["lr"] = then
            step_with(optimizer, 1.0)
            signs.append(torch.signbit(p).item())
        assert signs[0] == signs[1]


def test_a_tensor_lr_written_in_place_acts_at_the_next_step():
    p, lr = parameter(1.0), torch.tensor(0.5)
    optimizer = sgdm.SGD([p], lr=lr)
    step_with(optimizer, 1.0)
    lr.fill_(0.25)
    step_with(optimizer, 1.0)
    assert p.item() == 0.25


@pytest.mark.parametrize("value", [None, "0.1", [0.1]])
def test_a_hyperparameter_that_became_no_number_is_named(value):
    optimizer = sgdm.SGD([parameter(1.0)], lr=0.1)
    optimizer.param_groups[0]["lr"] = value
    with pytest.raises(sgdm.errors.InvalidTypeError, match="lr must be a number"):
        step_with(optimizer, 1.0)


def test_a_closure_without_look_ahead_is_torchs():
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = sgdm.SGD([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 1.0
    assert p.item() == pytest.approx(0.8)


def test_hooks_run_around_the_step():
    p, calls = parameter(1.0), []
    optimizer = sgdm.SGD([p])
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    step_with(optimizer, 1.0)
    assert calls == ["before", "after"]


def test_a_stale_graph_is_an_error_as_with_torch():
    """The version counters of what is written move on, at every precision."""
    for dtype in (torch.float32, torch.bfloat16):
        p = parameter(1.0, dtype=dtype)
        optimizer = sgdm.SGD([p], momentum=0.9)
        loss = (p * p).sum()
        step_with(optimizer, 1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_moved_model_is_refused_before_the_first_write():
    """Buffers that stayed on another device are named, not stepped halfway."""
    p, q = parameter(1.0), parameter(1.0)
    optimizer = sgdm.SGD([p, q], momentum=0.9)
    step_with(optimizer, 1.0, 1.0)
    before = p.detach().clone()
    optimizer.state[q]["momentum_buffer"] = buffer_of(optimizer, q).to("meta")
    with pytest.raises(
        ValueError, match=r"momentum_buffer must be of shape \(1,\) on cpu.*on meta"
    ):
        step_with(optimizer, 1.0, 1.0)
    assert torch.equal(p, before)


# ---- sparse gradients ----


def test_sparse_gradients_have_torchs_bits(seed):
    rows = torch.randn(3, 6, 4)
    runs = []
    for cls in (torch.optim.SGD, sgdm.SGD):
        for nesterov in (False, True):
            p = torch.nn.Parameter(torch.ones(6, 4))
            optimizer = cls([p], lr=0.1, momentum=0.9, nesterov=nesterov)
            for t in range(3):
                gradient = rows[t].clone()
                gradient[t] = 0
                p.grad = gradient.to_sparse(1)
                optimizer.step()
            assert buffer_of(optimizer, p).is_sparse
            runs.append((p.detach(), buffer_of(optimizer, p).to_dense()))
    for mine, theirs in zip(runs[2:], runs[:2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_sparse_gradient_meets_a_dense_buffer_with_torchs_bits(seed):
    """As after a probe or from another run's state; and at momentum 0 any buffer lies still."""
    start, held, gradient = torch.randn(3, 6, 4).unbind()
    for momentum in (0.9, 0.0):
        for sparse in (True, False):
            ends = []
            for cls in (torch.optim.SGD, sgdm.SGD):
                p = torch.nn.Parameter(start.clone())
                optimizer = cls([p], lr=0.1, momentum=0.9)
                kept = held.clone() if sparse else held.to_sparse(1)
                optimizer.state[p] = {"momentum_buffer": kept}
                optimizer.param_groups[0]["momentum"] = momentum
                p.grad = gradient.to_sparse(1) if sparse else gradient.clone()
                refused = momentum != 0 and not sparse  # by torch too: sparse + dense in place
                with pytest.raises(RuntimeError) if refused else nullcontext():
                    optimizer.step()
                ends.append(p.detach())
            assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"convention": "caffe"}, "sparse gradients are not defined for convention 'caffe'"),
        ({"weight_decay": 0.1}, "weight_decay must be 0 with sparse gradients.*got 0.1"),
    ],
)
def test_sparse_gradients_are_refused_before_the_first_write(arguments, message):
    p, q = parameter(1.0), parameter(1.0, 2.0)
    optimizer = sgdm.SGD([p, q], lr=0.1, **arguments)
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q).to_sparse()
    with pytest.raises(sgdm.errors.InvalidUseError, match=message):
        optimizer.step()
    assert p.item() == 1.0


# ---- autograd through the step ----


@pytest.mark.parametrize("case", [case for case in CASES if not case.needs_closure], ids=str)
@pytest.mark.parametrize("mode", ["coupled", "lr"])
def test_autograd_goes_through_the_step(case, mode, seed):
    """The derivative of two steps with respect to everything, against finite differences."""
    ahead = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    decay = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    start = torch.randn(3, dtype=torch.float64, requires_grad=True)
    gradients = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def two_steps(start, lr, decay, *gradients):
        p = start.clone()
        p.retain_grad()
        optimizer = make(
            case,
            [p],
            lr=lr,
            weight_decay=decay,
            weight_decay_mode=mode,
            differentiable=True,
        )
        for g in gradients:
            p.grad = g
            optimizer.step()
        return p, buffer_of(optimizer, p)

    assert torch.autograd.gradcheck(two_steps, (start, ahead, decay, *gradients))


def test_from_torch_goes_on_with_the_same_bits(seed):
    """In mid-run, with groups, a scheduler's keys and parameters that had no gradient yet."""
    pairs = [[torch.nn.Parameter(torch.randn(5)) for _ in range(3)] for _ in range(2)]
    for p, q in zip(*pairs, strict=True):
        q.data.copy_(p.data)
    groups = [{"params": pairs[0][:2]}, {"params": pairs[0][2:], "lr": 0.5, "weight_decay": 0.1}]
    running = torch.optim.SGD(groups, lr=0.1, momentum=0.9, dampening=0.5, fused=False)
    torch.optim.lr_scheduler.StepLR(running, 1)
    twin = torch.optim.SGD(
        [{**g, "params": ps} for g, ps in zip(groups, (pairs[1][:2], pairs[1][2:]), strict=True)],
        lr=0.1,
        momentum=0.9,
        dampening=0.5,
        foreach=False,
    )

    def advance(optimizer, params, gradients):
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
        optimizer.step()

    for _ in range(3):
        gradients = [torch.randn(5), None, torch.randn(5)]
        advance(running, pairs[0], gradients)
        advance(twin, pairs[1], gradients)
    taken = sgdm.SGD.from_torch(running, engine="eager")
    assert taken.engine == "eager"
    assert "convention" not in running.param_groups[0], "torch's own groups are left as they are"
    assert taken.param_groups[0]["initial_lr"] == 0.1
    assert buffer_of(taken, pairs[0][0]) is buffer_of(running, pairs[0][0])
    for _ in range(3):
        gradients = [torch.randn(5) for _ in range(3)]
        advance(taken, pairs[0], gradients)
        advance(twin, pairs[1], gradients)
        for p, q in zip(*pairs, strict=True):
            assert torch.equal(p, q)


def test_the_repr_names_the_convention():
    assert "convention: caffe" in repr(sgdm.SGD([parameter(1.0)], convention="caffe"))
