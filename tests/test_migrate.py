"""What docs/migrate.md promises: a run goes on here as it would have gone on there.

torch runs beside it. Of timm and Composer there is what the real ones did (tests/conformance).
apex is written down literally, as read from its source: it is built with CUDA alone.
"""

import copy
import io
import re
from functools import partial

import numpy as np
import pytest
import torch

import sgdm
from records import case_of, distance, inputs, recorded
from sgdm.errors import InvalidTypeError, InvalidValueError
from test_conformance import TOLERANCE
from transcriptions import Settings, apex

DECAYS = [case["name"] for case in inputs()["cases"] if case.get("weight_decay")]
FMA = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")  # the recorder had it


# ---- torch.optim.SGD: live ----


def network(dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    layers = (torch.nn.Linear(5, 33), torch.nn.Tanh(), torch.nn.Linear(33, 3))
    return torch.nn.Sequential(*layers).to(dtype)


def schedule_of(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.9**t)


def as_object(running, schedule, model, arguments):
    """The recipe of the page: the schedule on the new optimizer, then the old one's state."""
    optimizer, following = without_the_last_line(running, schedule, model, arguments)
    optimizer.load_state_dict(running.state_dict())
    return optimizer, following


def without_the_last_line(running, schedule, model, arguments):
    optimizer = sgdm.SGD.from_torch(running)
    following = schedule_of(optimizer)
    following.load_state_dict(schedule.state_dict())
    return optimizer, following


def as_file(running, schedule, model, arguments):
    file = io.BytesIO()
    torch.save((running.state_dict(), schedule.state_dict()), file)
    file.seek(0)
    state, place = torch.load(file)
    optimizer = sgdm.SGD(model.parameters(), **arguments)
    following = schedule_of(optimizer)
    following.load_state_dict(place)
    optimizer.load_state_dict(state)
    return optimizer, following


def train(dtype, arguments, *, new=torch.optim.SGD, take=None) -> list[torch.Tensor]:
    """Thirty steps under a schedule and a GradScaler, which skips two; taken over at the 12th."""
    way_down = -1.0 if arguments.get("maximize") else 1.0
    model = network(dtype)
    optimizer = new(model.parameters(), **arguments)
    schedule = schedule_of(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
    for t in range(30):
        if take is not None and t == 12:
            optimizer, schedule = take(optimizer, schedule, model, arguments)
        optimizer.zero_grad()
        x = torch.randn(8, 5, dtype=dtype)
        loss = model(x).square().mean() * (torch.inf if t in (3, 20) else way_down)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
    return [p.detach() for p in model.parameters()]


ARGUMENTS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 1e-2, "maximize": True},
]
WAYS = [{"new": sgdm.SGD}, {"take": as_object}, {"take": as_file}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("path", [{}, {"foreach": False}, {"foreach": True}])
@pytest.mark.parametrize("way", WAYS, ids=["new", "object", "file"])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # the skipped steps
def test_torchs_loop_and_foreach_go_on_here_with_the_same_bits(dtype, arguments, path, way):
    theirs = train(dtype, arguments | path)
    ours = train(dtype, arguments | path, **way)
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("way", WAYS, ids=["new", "object", "file"])
def test_torchs_fused_goes_on_here_to_rounding(dtype, arguments, way):
    theirs = train(dtype, {**arguments, "fused": True})
    ours = train(dtype, {**arguments, "fused": True}, **way)
    limit = TOLERANCE[str(dtype).removeprefix("torch.")]
    for a, b in zip(ours, theirs, strict=True):
        assert distance(a.numpy(), b.numpy()) <= limit


@pytest.mark.parametrize("foreach", [False, True])
def test_without_a_scheduler_from_torch_is_all(foreach):
    def end(*, take_over: bool) -> torch.Tensor:
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(9))
        running = torch.optim.SGD(
            [p], lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2, foreach=foreach
        )
        optimizer: torch.optim.Optimizer = running
        for t in range(20):
            if t == 7 and take_over:
                optimizer = sgdm.SGD.from_torch(running)
            p.grad = torch.sin(p.detach() * (t + 1))
            optimizer.step()
        return p.detach()

    assert torch.equal(end(take_over=True), end(take_over=False))


def test_without_the_last_line_of_the_recipe_a_step_is_at_the_first_rate():
    """The comparisons above can fail."""
    theirs = train(torch.float32, ARGUMENTS[2])
    ours = train(torch.float32, ARGUMENTS[2], take=without_the_last_line)
    assert distance(ours[0].numpy(), theirs[0].numpy()) > 1e-3


# ---- timm and Composer: recorded ----

# The keys of a group in their dicts besides those that each rule reads.
SHARED = {"maximize": False, "foreach": None, "differentiable": False}
KEYS = {
    "timm": {"caution": False, "corrected_weight_decay": False, **SHARED},
    "timm-corrected": {"caution": False, "corrected_weight_decay": True, **SHARED},
    "composer": {**SHARED, "fused": None},
}


def their_dict(record, t, **keys):
    """The state dict of their optimizer before step t; both write None where there is no buffer."""
    before = max(t - 1, 0)
    buffer = None if np.isnan(record.b[before]).all() else torch.from_numpy(record.b[before].copy())
    group = {
        "lr": record.lr[before],
        "momentum": record.momentum[before],
        "dampening": record.dampening,
        "weight_decay": record.weight_decay,
        "nesterov": record.nesterov,
        **keys,
        "params": [0],
    }
    return {"state": {0: {"momentum_buffer": buffer}} if t else {}, "param_groups": [group]}


def parameter_at(record, t):
    return torch.nn.Parameter(torch.from_numpy((record.p[t - 1] if t else record.start).copy()))


def go_on(optimizer, p, record, start):
    """Take the steps of a record from `start` on."""
    points = []
    for t in range(start, len(record.lr)):
        optimizer.param_groups[0].update(lr=record.lr[t], momentum=record.momentum[t])
        p.grad = torch.from_numpy(record.gradient(t, p.detach().numpy()))
        optimizer.step()
        points.append(p.detach().numpy().copy())
    return np.stack(points)


def as_recorded(points, record, start) -> bool:
    """Whether they are the bits of the record, or near, on processors that round otherwise."""
    theirs = record.p[start:]
    return np.array_equal(points, theirs) if FMA else distance(points, theirs) <= 2e-6


def theirs_on_the_way(row, record, t, **keys):
    """Build the optimizer as the page says, with its line for lr0."""
    p = parameter_at(record, t)
    optimizer = sgdm.SGD([p], convention=row)
    if row == "composer":
        keys["initial_lr"] = record.lr[0]
    optimizer.load_state_dict(their_dict(record, t, **{**KEYS[row], **keys}))
    for group in optimizer.param_groups:
        if row != "composer":
            group["lr0"] = max(record.lr)
    return optimizer, p


@pytest.mark.parametrize("row", KEYS)
@pytest.mark.parametrize("start", [0, 1, 7, 25])
def test_timm_and_composer_go_on_here_as_they_went_on(row, start):
    """Schedules, warm-up, moving momentum, dampening, Nesterov; float32 and float64."""
    assert len(recorded(row).records) == 34
    for record in recorded(row).records:
        optimizer, p = theirs_on_the_way(row, record, start)
        points = go_on(optimizer, p, record, start)
        assert as_recorded(points, record, start), f"{record.name}, {record.dtype}"


@pytest.mark.parametrize("row", ["timm-corrected", "composer"])
@pytest.mark.parametrize("name", DECAYS)
def test_lr0_is_the_initial_lr_of_a_dict(row, name):
    (record,) = (r for r in recorded(row).records if (r.name, r.dtype) == (name, "float64"))
    p = parameter_at(record, 25)
    optimizer = sgdm.SGD([p], lr=record.lr[24], convention=row)
    optimizer.load_state_dict(their_dict(record, 25, **KEYS[row], initial_lr=record.lr[0]))
    assert optimizer.param_groups[0]["lr0"] == record.lr[0]
    assert as_recorded(go_on(optimizer, p, record, 25), record, 25)


def test_without_lr0_and_initial_lr_that_of_the_constructor_stays():
    (record,) = (
        r for r in recorded("timm-corrected").records if (r.name, r.dtype) == ("decay", "float64")
    )
    p = parameter_at(record, 25)
    optimizer = sgdm.SGD([p], lr=record.lr[24], convention="timm-corrected")
    optimizer.load_state_dict(their_dict(record, 25, **KEYS["timm-corrected"]))
    assert optimizer.param_groups[0]["lr0"] == record.lr[24]


def test_lr0_stays_in_the_dicts_that_are_written_from_then_on():
    (record,) = (
        r for r in recorded("composer").records if (r.name, r.dtype) == ("decay", "float64")
    )
    optimizer, p = theirs_on_the_way("composer", record, 25)
    again = sgdm.SGD([p], convention="composer")
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["lr0"] == record.lr[0]
    assert as_recorded(go_on(again, p, record, 25), record, 25)


def test_timms_decay_acts_once_in_a_group_of_two_dtypes():
    """Older foreach of timm: once for each dtype."""
    params = [torch.nn.Parameter(torch.ones(1, dtype=d)) for d in (torch.float32, torch.float64)]
    optimizer = sgdm.SGD(params, lr=0.5, weight_decay=0.5, foreach=True, convention="timm")
    for p in params:
        p.grad = torch.full_like(p, 1e-30)
    optimizer.step()
    assert [p.item() for p in params] == [0.75, 0.75]


def test_timms_peak_is_one_for_all_groups():
    """A group's own lr would be its ε_0 here; the key lr0 says otherwise."""
    p = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    group = {"params": [p], "lr": 0.1, "lr0": 0.5}
    optimizer = sgdm.SGD([group], lr=0.5, weight_decay=0.1, convention="timm-corrected")
    p.grad = torch.full_like(p, 1e-30)
    optimizer.step()
    assert p.item() == pytest.approx(1 - 0.1**2 / 0.5 * 0.1, rel=1e-15)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (
            "caution",
            "caution must be False in a state dict for sgdm.SGD, as no convention masks its step, "
            "got True; set it to False to go on without the mask",
        ),
        (
            "corrected_weight_decay",
            "corrected_weight_decay must be False in a state dict for convention 'timm', got True; "
            "take convention='timm-corrected'",
        ),
    ],
)
def test_what_the_rule_does_not_do_is_refused(key, text):
    (record,) = (r for r in recorded("timm").records if (r.name, r.dtype) == ("drop", "float64"))
    with pytest.raises(InvalidValueError, match=re.escape(text)):
        theirs_on_the_way("timm", record, 7, **{key: True})


def cautious(b, g, mu=0.9):
    """timm's step with caution=True, of a buffer and a gradient, for lr = 1."""
    u = mu * b + g
    mask = u * g > 0
    return u * mask / max(mask.mean(), 1e-3)


def test_no_linear_rule_is_timms_with_caution():
    """A convention's step is the sum of its parts; the masked one is not."""
    b, g = np.array([1.0, -2.0, 0.5]), np.array([1.0, 1.0, -1.0])
    parts = cautious(b, np.zeros(3)) + cautious(np.zeros(3), g)
    assert distance(cautious(b, g), parts) > 0.1


def composer(p, b, g, s, initial_lr):
    """decoupled_weight_decay.py: decay_factor = lr / initial_lr if initial_lr else 1."""
    factor = s.lr / initial_lr if initial_lr else 1.0
    new = g if b is None else s.mu * b + (1 - s.tau) * g
    return p * (1 - factor * s.wd) - s.lr * (g + s.mu * new if s.nesterov else new), new


def walk(rule, record, t=0, until=60, p=None, b=None):
    """Follow a literal rule from step t on; return its points and its last buffer."""
    p = record.start if p is None else p
    points = []
    for i in range(t, until):
        tau, nesterov = record.dampening, record.nesterov
        s = Settings(i, record.lr[i], record.momentum[i], record.weight_decay, tau, nesterov)
        p, b = rule(p, b, record.gradient(i, p), s)
        points.append(p)
    return np.stack(points), b


def test_composer_with_an_initial_lr_of_0_is_the_mode_absolute():
    (record,) = (
        r for r in recorded("composer").records if (r.name, r.dtype) == ("decay", "float64")
    )
    literal, _ = walk(partial(composer, initial_lr=record.lr[0]), record)
    assert distance(literal, record.p) <= 1e-12
    theirs, _ = walk(partial(composer, initial_lr=0), record)
    p = parameter_at(record, 0)
    optimizer = sgdm.SGD(
        [p], weight_decay=0.05, convention="composer", weight_decay_mode="absolute"
    )
    assert distance(go_on(optimizer, p, record, 0), theirs) <= 1e-12
    assert distance(theirs, record.p) > 1e-3


@pytest.mark.parametrize("name", DECAYS)
@pytest.mark.parametrize(("source", "to"), [("timm", "composer"), ("composer", "timm")])
def test_a_ported_decay_keeps_the_trajectory_under_the_schedule(name, source, to):
    (record,) = (r for r in recorded(source).records if (r.name, r.dtype) == (name, "float64"))
    found = sgdm.port_hyperparameters(
        source=source,
        to=to,
        lr=record.lr[0],
        momentum=record.momentum[0],
        weight_decay=record.weight_decay,
        nesterov=record.nesterov,
    )
    assert found.weight_decay != record.weight_decay
    p = parameter_at(record, 0)
    optimizer = sgdm.SGD(
        [p],
        lr=record.lr[0],
        momentum=found.momentum,
        weight_decay=found.weight_decay,
        nesterov=record.nesterov,
        convention=to,
    )
    assert distance(go_on(optimizer, p, record, 0), record.p) <= 1e-12


class DecoupledSGDW(torch.optim.SGD):
    """Composer's is derived from torch's, and steps otherwise."""

    def __init__(self, params, **arguments):
        super().__init__(params, **arguments)
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]

    @torch.no_grad()
    def step(self, closure=None):
        raise NotImplementedError


def test_from_torch_refuses_a_derived_class_with_a_step_of_its_own():
    running = DecoupledSGDW([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    text = (
        "optimizer must be a torch.optim.SGD with torch's own step, got 'DecoupledSGDW'; build an "
        "sgdm.SGD with its convention, and load its state dict"
    )
    with pytest.raises(InvalidTypeError, match=re.escape(text)):
        sgdm.SGD.from_torch(running)


def test_from_torch_takes_a_derived_class_with_torchs_step():
    class Named(torch.optim.SGD):
        pass

    running = Named([torch.nn.Parameter(torch.ones(2))], lr=0.25)
    torch.optim.lr_scheduler.ConstantLR(running, factor=1.0)  # wraps the step of the instance
    assert sgdm.SGD.from_torch(running).param_groups[0]["lr"] == 0.25


# ---- apex: transcribed ----


def apex_after(p, b, g, s):
    """multi_tensor_sgd_kernel.cu with wd_after_momentum."""
    if s.mu == 0:
        return p - s.lr * (g + s.wd * p), b
    new = g if b is None else s.mu * b + (1 - s.tau) * g
    u = g + s.mu * new if s.nesterov else new
    return p - s.lr * (u + s.wd * p), new


def apex_dict(record, t, buffer):
    """What it writes; wd_after_momentum and materialize_master_grads are not in it."""
    group = {
        "lr": record.lr[max(t - 1, 0)],
        "momentum": record.momentum[max(t - 1, 0)],
        "dampening": record.dampening,
        "weight_decay": record.weight_decay,
        "nesterov": record.nesterov,
        "params": [0],
    }
    state = {} if buffer is None else {0: {"momentum_buffer": buffer}}
    return {"state": state, "param_groups": [group]}


@pytest.mark.parametrize("case", inputs()["cases"], ids=lambda case: case["name"])
@pytest.mark.parametrize("start", [0, 1, 25])
@pytest.mark.parametrize(
    ("rule", "more"), [(apex, {}), (apex_after, {"weight_decay_mode": "lr"})], ids=["l2", "after"]
)
def test_apex_goes_on_here(case, start, rule, more):
    record = case_of(case["name"])
    theirs, _ = walk(rule, record)
    p = torch.nn.Parameter(torch.from_numpy(theirs[start - 1] if start else record.start))
    buffer = None if start == 0 else walk(rule, record, until=start)[1]
    optimizer = sgdm.SGD([p], convention="apex", **more)
    held = None if buffer is None else torch.from_numpy(buffer.copy())
    optimizer.load_state_dict(apex_dict(record, start, held))
    assert distance(go_on(optimizer, p, record, start), theirs[start:]) <= 1e-12


def test_apex_with_the_decay_after_momentum_is_another_rule():
    record = case_of("decay")
    assert distance(walk(apex_after, record)[0], walk(apex, record)[0]) > 1e-3


def test_master_weights_go_on_as_the_models_float32():
    """amp's O2: the groups hold float32 masters of the model's float16 parameters."""
    record = case_of("decay", "float32")
    start = 25
    theirs, _ = walk(apex, case_of("decay"))
    masters, held = walk(apex, case_of("decay"), until=start)
    master = torch.from_numpy(masters[-1]).float()

    def ended(*, from_masters: bool):
        model = torch.nn.Linear(2, 1, bias=False).half()
        with torch.no_grad():
            model.weight.copy_(master.half()[None])
        model.float()
        optimizer = sgdm.SGD(model.parameters(), convention="apex")
        assert held is not None
        optimizer.load_state_dict(apex_dict(record, start, torch.from_numpy(held).float()[None]))
        if from_masters:
            params = [p for group in optimizer.param_groups for p in group["params"]]
            with torch.no_grad():
                for p, kept in zip(params, [master[None]], strict=True):
                    p.copy_(kept)
        for t in range(start, 60):
            optimizer.param_groups[0].update(lr=record.lr[t], momentum=record.momentum[t])
            point = model.weight.detach()[0].numpy()
            model.weight.grad = torch.from_numpy(record.gradient(t, point))[None]
            optimizer.step()
        return model.weight.detach()[0].numpy()

    assert distance(ended(from_masters=True), theirs[-1]) <= TOLERANCE["float32"]
    assert distance(ended(from_masters=False), theirs[-1]) > 1e-5


def test_float16_momentum_of_apex_stays_float16():
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    optimizer = sgdm.SGD([p], convention="apex", buffer_dtype=torch.float32)
    optimizer.load_state_dict(apex_dict(case_of("drop"), 7, torch.ones(2, dtype=torch.float16)))
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[p]["momentum_buffer"].dtype == torch.float16


def test_apexs_zero_buffers_of_steps_without_momentum_damp_the_first_that_has_some():
    """It makes them in its first step, whatever the momentum; torch makes none."""
    record = case_of("drop")._replace(dampening=0.5)
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = sgdm.SGD([p], convention="apex")
    optimizer.load_state_dict(apex_dict(record, 7, torch.zeros(2, dtype=torch.float64)))
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(optimizer.state[p]["momentum_buffer"], torch.full_like(p, 0.5))
    fresh = sgdm.SGD([p], lr=0.1, momentum=0.9, dampening=0.5, convention="apex")
    fresh.step()
    assert torch.equal(fresh.state[p]["momentum_buffer"], torch.ones_like(p))


def launch(params, buffers, gradients, *, lr, mu):
    """fused_sgd.py, get_momentums and step: the last parameter decides for all."""
    first_run = True
    for i in params:
        if i not in gradients:
            continue
        first_run = i not in buffers
        buffers.setdefault(i, np.zeros_like(params[i]))
    for i, g in gradients.items():
        buffers[i] = g if first_run else mu * buffers[i] + g
        params[i] = params[i] - lr * buffers[i]


@pytest.mark.parametrize("late", [0, 1])
def test_a_late_parameter_has_its_own_first_step_here_and_none_in_apex(late):
    """Last in its group it wipes the momentum of all; before that it starts from zeros."""
    params = [torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2)]
    twins = copy.deepcopy(params)
    ours = sgdm.SGD(params, lr=0.1, momentum=0.9, convention="apex")
    torchs = torch.optim.SGD(twins, lr=0.1, momentum=0.9, foreach=False)
    theirs, buffers = {i: np.ones(2) for i in range(2)}, {}
    for t in range(3):
        g = {i: np.full(2, 1.0 + t + i) for i in range(2) if i != late or t == 2}
        for group in (params, twins):
            for i, p in enumerate(group):
                p.grad = torch.from_numpy(g[i].copy()) if i in g else None
        ours.step()
        torchs.step()
        launch(theirs, buffers, g, lr=0.1, mu=0.9)
    assert all(map(torch.equal, params, twins))
    apart = [distance(p.detach().numpy(), theirs[i]) for i, p in enumerate(params)]
    assert (max(apart) > 1e-2) == (late == 1)


def test_from_torch_refuses_what_is_not_torchs():
    class Foreign(torch.optim.Optimizer):
        pass

    p = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.SGD"):
        sgdm.SGD.from_torch(Foreign([p], {"lr": 0.1}))  # pyright: ignore[reportArgumentType]
