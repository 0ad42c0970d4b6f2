"""`sgdm.SGD` against the literal equations, and its contracts: state, points, probes, refusals."""

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import sgdm
from cases import BENGIO, CASES, SUTSKEVER_NESTEROV, TORCH, TORCH_DAMPENED, TORCH_NESTEROV, Case
from reference import run, shrinking

STEPS = 40


def make(case: Case, params, **arguments) -> sgdm.SGD:
    given: dict[str, Any] = {}
    given.update(lr=0.1, momentum=0.9)
    given.update(case.options)
    given.update(arguments)
    return sgdm.SGD(params, convention=case.convention, **given)


def drive(optimizer, params, gradient, eps, mu, present) -> list[list[np.ndarray]]:
    """Step under schedules, each parameter skipping the steps where it has no gradient."""
    ahead = sgdm.get_convention(optimizer.param_groups[0]["convention"]).momentum == "next"
    path = [[p.detach().numpy().copy() for p in params]]
    for t in range(present.shape[0]):
        for group in optimizer.param_groups:
            group["lr"], group["momentum"] = eps(t), mu(t + ahead)

        def closure(t=t):
            for i, p in enumerate(params):
                point = p.detach().numpy()
                p.grad = torch.from_numpy(np.asarray(gradient(point, t))) if present[t, i] else None
            return torch.tensor(0.0)

        optimizer.step(closure)
        path.append([p.detach().numpy().copy() for p in params])
    return path


class Problem:
    """Drawn parameters, gradients, schedules and missing gradients."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        lrs, momenta = rng.uniform(0.001, 0.2, STEPS + 2), rng.uniform(0, 0.95, STEPS + 2)
        self.eps, self.mu = (lambda t: float(lrs[t])), (lambda t: float(momenta[t]))
        shifts = rng.standard_normal(STEPS)
        self.gradient = lambda x, t: 0.4 * x + np.sin(x) + shifts[t]
        self.starts = [rng.standard_normal(shape) for shape in ((3,), (2, 4), ())]
        self.present = rng.random((STEPS, 3)) > 0.25

    def params(self):
        return [torch.nn.Parameter(torch.from_numpy(np.array(x))) for x in self.starts]


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
            shrinking(case.literal, kept),
            start,
            gradient,
            problem.eps,
            problem.mu,
            problem.present[:, i],
        )
        actual = np.stack([point[i] for point in path])
        assert np.abs(actual - expected).max() <= 1e-12 * max(1.0, np.abs(expected).max())


def parameter(*values: float, dtype=torch.float64) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


def step_with(optimizer, *gradients) -> None:
    """One step with these gradients; None is none."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, g in zip(params, gradients, strict=True):
        p.grad = None if g is None else torch.as_tensor(g, dtype=p.dtype).expand(p.shape).clone()
    optimizer.step()


def buffer_of(optimizer, p) -> torch.Tensor:
    return optimizer.state[p]["momentum_buffer"]


# ---- θ and Θ ----


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
            case.literal, start, problem.gradient, problem.eps, problem.mu, present[:, i]
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
    for case in (SUTSKEVER_NESTEROV, Case(other, SUTSKEVER_NESTEROV.literal)):
        params = problem.params()
        optimizer = make(case, params)
        drive(optimizer, params, problem.gradient, problem.eps, problem.mu, everywhere)
        with optimizer.at_iterate():
            ends.append([p.detach().clone() for p in params])
    for a, b in zip(*ends, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


# ---- state ----


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


@pytest.mark.parametrize("case", CASES, ids=str)
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
            assert steps == [0 if case is TORCH_DAMPENED else None] * 3
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
