"""θ and its look-ahead point Θ: what is stored, shown, put back; the rule that needs a closure."""

import copy

import numpy as np
import pytest
import torch

import sgdm
from cases import BENGIO, CASES, SUTSKEVER_NESTEROV, TORCH_NESTEROV, Case
from driving import Problem, buffer_of, drive, make, parameter, step_with
from reference import run


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_at_iterate_shows_theta_and_puts_the_parameters_back(case, steps, seed):
    problem = Problem(seed)
    params = problem.params()
    optimizer = make(case, params)
    present = np.ones((steps, 3), dtype=bool)
    drive(optimizer, params, problem.gradient, problem.eps, problem.mu, present)
    before = [p.detach().clone() for p in params]
    if steps:
        optimizer.param_groups[0]["lr"] = 123.0  # a scheduler has moved on already
    with optimizer.at_iterate():
        shown = [p.detach().clone() for p in params]
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    for i, start in enumerate(problem.starts):
        _, iterates, _ = run(
            case.twin, start, problem.gradient, problem.eps, problem.mu, present[:, i]
        )
        assert np.abs(shown[i].numpy() - iterates[-1]).max() < 1e-12


def test_the_weight_of_the_iterate_survives_a_checkpoint_in_mid_schedule():
    """A warm restart raises lr a thousandfold; θ is still the end of the last step."""
    p = parameter(1.0)
    optimizer = make(TORCH_NESTEROV, [p], lr=1e-3)
    step_with(optimizer, 2.0)
    optimizer.param_groups[0]["lr"] = 1.0
    again = make(TORCH_NESTEROV, [p])
    again.load_state_dict(optimizer.state_dict())
    with again.at_iterate():
        assert p.item() == pytest.approx(1.0 - 1e-3 * 2.0, abs=1e-15)


def test_at_iterate_after_a_dict_of_torch_takes_the_groups_own_lr():
    p, q = parameter(1.0), parameter(1.0)
    theirs = torch.optim.SGD([q], lr=0.5, momentum=0.9, nesterov=True)
    q.grad = torch.ones_like(q)
    theirs.step()
    optimizer = make(TORCH_NESTEROV, [p])
    optimizer.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        p.copy_(q)
    with optimizer.at_iterate():
        assert p.item() == pytest.approx(0.5)


def test_an_error_inside_at_iterate_puts_the_parameters_back():
    p = parameter(1.0)
    optimizer = make(BENGIO, [p])
    step_with(optimizer, 1.0)
    before = p.item()
    with pytest.raises(KeyError), optimizer.at_iterate():
        raise KeyError
    assert p.item() == before
    optimizer.step()


def test_inside_at_iterate_nothing_may_step_or_load():
    p = parameter(1.0)
    optimizer = make(BENGIO, [p])
    step_with(optimizer, 1.0)
    with optimizer.at_iterate():
        with pytest.raises(RuntimeError, match=r"^step\(\) must be called outside"):
            optimizer.step()
        with pytest.raises(sgdm.errors.InvalidUseError, match=r"at_iterate.* must be called"):
            optimizer.at_iterate().__enter__()
        with pytest.raises(sgdm.errors.InvalidUseError, match="load_state_dict"):
            optimizer.load_state_dict(optimizer.state_dict())
        with pytest.raises(sgdm.errors.InvalidUseError, match=r"^copy\(\) must be called outside"):
            copy.deepcopy(optimizer)


# ---- Sutskever's form, which needs a closure ----


def quadratic(p, seen=None):
    """A closure for p²/2 that notes where it was called."""

    def closure():
        if seen is not None:
            seen.append(p.detach().clone())
        p.grad = p.detach().clone()
        return 0.5 * (p.detach() ** 2).sum()

    return closure


def test_the_closure_runs_at_the_look_ahead_point():
    p, seen = parameter(1.0), []
    optimizer = make(SUTSKEVER_NESTEROV, [p], lr=0.5, momentum=0.5)
    optimizer.step(quadratic(p, seen))
    assert p.item() == 0.5  # v = -0.5
    loss = optimizer.step(quadratic(p, seen))
    assert [x.item() for x in seen] == [1.0, 0.25]
    assert loss.item() == 0.5 * 0.25**2
    assert p.item() == 0.25 - 0.5 * 0.25


def test_a_parameter_that_a_group_has_twice_is_moved_once():
    p, seen = parameter(1.0), []
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = make(SUTSKEVER_NESTEROV, [p, p], lr=0.5, momentum=0.5)
    optimizer.step(quadratic(p, seen))
    stood, velocity = p.item(), buffer_of(optimizer, p).item()
    assert velocity != 0
    optimizer.step(quadratic(p, seen))
    assert seen[1].item() == stood + 0.5 * velocity


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_a_closure_sutskever_names_bengio(momentum):
    p = parameter(1.0)
    optimizer = make(SUTSKEVER_NESTEROV, [p], momentum=momentum)
    p.grad = torch.ones_like(p)
    with pytest.raises(sgdm.errors.InvalidUseError, match=r"given a closure.*convention='bengio'"):
        optimizer.step()
    assert p.item() == 1.0
    assert not optimizer.state


def test_under_grad_scaler_sutskever_names_bengio():
    p = parameter(1.0, dtype=torch.float32)
    optimizer = make(SUTSKEVER_NESTEROV, [p])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale((p**2).sum()).backward()
    with pytest.raises(RuntimeError, match="convention='bengio'"):
        scaler.step(optimizer)


@pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt])
def test_a_failing_closure_leaves_theta_where_it_was(failure):
    p = parameter(0.1, 0.7)
    optimizer = make(SUTSKEVER_NESTEROV, [p])
    optimizer.step(quadratic(p))
    before, buffer = p.detach().clone(), buffer_of(optimizer, p).clone()

    def closure():
        raise failure

    with pytest.raises(failure):
        optimizer.step(closure)
    assert torch.equal(p, before)
    assert torch.equal(buffer_of(optimizer, p), buffer)


def test_a_refused_update_leaves_theta_where_it_was():
    p = parameter(0.1, 0.7)
    optimizer = make(SUTSKEVER_NESTEROV, [p])
    optimizer.step(quadratic(p))
    before = p.detach().clone()

    def closure():
        p.grad = torch.ones_like(p).to_sparse()
        return torch.tensor(0.0)

    with pytest.raises(sgdm.errors.InvalidUseError, match="sparse"):
        optimizer.step(closure)
    assert torch.equal(p, before)


def test_a_parameter_without_gradient_goes_back_to_theta_exactly():
    p, q = parameter(0.1, 0.7), parameter(0.3)
    optimizer = make(SUTSKEVER_NESTEROV, [p, q])

    def both():
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
        return torch.tensor(0.0)

    optimizer.step(both)
    before = q.detach().clone()

    def one():
        p.grad, q.grad = torch.ones_like(p), None
        return torch.tensor(0.0)

    optimizer.step(one)
    assert torch.equal(q, before)


def test_what_a_closure_writes_itself_stays():
    p, q = parameter(0.1), parameter(0.3)
    optimizer = make(SUTSKEVER_NESTEROV, [p, q])

    def both():
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)

    def write_q():
        p.grad, q.grad = torch.ones_like(p), None
        with torch.no_grad():
            q.fill_(7.0)

    optimizer.step(both)
    optimizer.step(write_q)
    assert q.item() == 7.0


@pytest.mark.parametrize("other", ["nag", "bengio"])
def test_sutskever_is_bengio_fed_one_step_ahead(other, seed):
    """θ of the one is `at_iterate` of the other, also under schedules; unshifted at constant μ."""
    problem = Problem(seed)
    everywhere = np.ones_like(problem.present)
    ends = []
    for case in (SUTSKEVER_NESTEROV, Case(other, SUTSKEVER_NESTEROV.twin)):
        params = problem.params()
        optimizer = make(case, params)
        drive(optimizer, params, problem.gradient, problem.eps, problem.mu, everywhere)
        with optimizer.at_iterate():
            ends.append([p.detach().clone() for p in params])
    for a, b in zip(*ends, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
