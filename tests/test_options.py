"""Clipping, refusing what is not finite, unscaling, moving averages, buffers of another dtype.

Each on every engine, beside the separate operations of torch that it stands for.
"""

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sgdm
from driving import parameter, step_with
from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError

ENGINES = pytest.mark.parametrize("engine", ["native", "eager"])
SHAPES = ((), (3,), (7, 5), (40_000,), (0, 2))
EVERYTHING: dict[str, Any] = {
    "lr": 0.1,
    "momentum": 0.9,
    "dampening": 0.5,
    "weight_decay": 0.01,
    "ema_decay": 0.75,
}


def parameters(dtype=torch.float32) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]


def twins(params) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def give_gradients(*lists, size=1.0) -> None:
    for group in zip(*lists, strict=True):
        g = size * torch.randn(group[0].shape).to(group[0].dtype)
        for p in group:
            p.grad = g.clone()


def frozen_state(optimizer) -> dict[str, Any]:
    """A copy of everything that a step may change."""
    return copy.deepcopy(
        {
            "params": [p.detach() for group in optimizer.param_groups for p in group["params"]],
            "state": optimizer.state_dict(),
        }
    )


def assert_unchanged(optimizer, before) -> None:
    now = frozen_state(optimizer)
    assert now["state"]["param_groups"] == before["state"]["param_groups"]
    assert now["state"]["state"].keys() == before["state"]["state"].keys()
    for index, state in before["state"]["state"].items():
        assert now["state"]["state"][index].keys() == state.keys()
        for key, value in state.items():
            assert torch.equal(
                torch.as_tensor(now["state"]["state"][index][key]), torch.as_tensor(value)
            )
    assert all(torch.equal(a, b) for a, b in zip(now["params"], before["params"], strict=True))


# ---- max_grad_norm ----


@ENGINES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-4, 1.0, 100.0])
def test_the_norm_is_that_of_clip_grad_norm(engine, dtype, size, seed):
    ours = parameters(dtype)
    theirs = [torch.nn.Parameter(p.detach().double()) for p in ours]
    optimizer = sgdm.SGD(
        [{"params": ours[:2]}, {"params": ours[2:], "lr": 0.2}], max_grad_norm=5.0, engine=engine
    )
    give_gradients(ours, size=size)
    for p, q in zip(ours, theirs, strict=True):
        assert p.grad is not None
        q.grad = p.grad.double()
    optimizer.step()
    norm = torch.nn.utils.clip_grad_norm_(theirs, 5.0).item()
    assert optimizer.last_grad_norm == pytest.approx(norm, rel=1e-6)


@ENGINES
def test_a_clipped_step_is_clip_grad_norm_and_a_step(engine, seed):
    ours = parameters(torch.float64)
    theirs = twins(ours)
    arguments: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    optimizer = sgdm.SGD(ours, **arguments, max_grad_norm=1.5, engine=engine)
    rival = torch.optim.SGD(theirs, **arguments)
    for size in (0.001, 1.0, 30.0, 0.003):
        give_gradients(ours, theirs, size=size)
        kept = [p.grad.clone() for p in ours if p.grad is not None]
        optimizer.step()
        now = [p.grad for p in ours if p.grad is not None]
        assert all(torch.equal(g, k) for g, k in zip(now, kept, strict=True))
        torch.nn.utils.clip_grad_norm_(theirs, 1.5)
        rival.step()
        for p, q in zip(ours, theirs, strict=True):
            assert torch.allclose(p, q, rtol=1e-13, atol=1e-14)


@ENGINES
def test_below_the_norm_nothing_is_scaled(engine, seed):
    ours = parameters()
    theirs = twins(ours)
    optimizer = sgdm.SGD(ours, lr=0.1, max_grad_norm=1e6, engine=engine)
    rival = torch.optim.SGD(theirs, lr=0.1)
    give_gradients(ours, theirs)
    optimizer.step()
    rival.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


@ENGINES
def test_infinity_measures_only(engine, seed):
    p = parameter(3.0, 4.0)
    optimizer = sgdm.SGD([p], lr=1.0, max_grad_norm=math.inf, engine=engine)
    step_with(optimizer, [3.0, 4.0])
    assert optimizer.last_grad_norm == 5.0
    assert torch.equal(p, torch.zeros(2, dtype=torch.float64))


def test_neither_threads_nor_grouping_nor_the_instruction_set_change_the_norm(seed):
    from sgdm.engines import _native

    params = [torch.nn.Parameter(torch.randn(n)) for n in (1, 1000, 16_383, 100_001)]
    give_gradients(params, size=3.7)
    norms = set[float | None]()
    threads, instructions = torch.get_num_threads(), _native.instruction_set()
    try:
        for name in _native.instruction_sets():
            _native.use_instruction_set(name)
            for count in (1, 2, 3, 8):
                torch.set_num_threads(count)
                for split in (1, 2, 4):
                    groups = [{"params": params[:split]}, {"params": params[split:][::-1]}]
                    optimizer = sgdm.SGD(
                        groups[: 2 if split < 4 else 1], lr=0.0, max_grad_norm=1, engine="native"
                    )
                    optimizer.step()
                    norms.add(optimizer.last_grad_norm)
    finally:
        torch.set_num_threads(threads)
        _native.use_instruction_set(instructions)
    assert len(norms) == 1


@ENGINES
def test_given_the_same_norm_a_clipped_step_has_the_same_bits(engine, seed):
    """The norm 5 is exact on both engines, so the coefficient is one number."""
    ours = [torch.nn.Parameter(torch.randn(4)), torch.nn.Parameter(torch.randn(1))]
    theirs = twins(ours)
    for params in (ours, theirs):
        params[0].grad, params[1].grad = torch.tensor([3.0, 0, 0, 0]), torch.tensor([4.0])
    arguments: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    sgdm.SGD(ours, **arguments, max_grad_norm=0.7, engine=engine).step()
    for q in theirs:
        assert q.grad is not None
        q.grad *= 0.7 / (5 + 1e-6)
    torch.optim.SGD(theirs, **arguments).step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


@ENGINES
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_goes_through_as_in_torch(engine, bad):
    ours = [parameter(1.0, 2.0)]
    theirs = twins(ours)
    for p in (*ours, *theirs):
        p.grad = torch.tensor([bad, 1.0], dtype=torch.float64)
    optimizer = sgdm.SGD(ours, lr=0.5, max_grad_norm=1.0, engine=engine)
    optimizer.step()
    torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    torch.optim.SGD(theirs, lr=0.5).step()
    assert torch.equal(ours[0].isnan(), theirs[0].isnan())
    assert torch.equal(ours[0].nan_to_num(), theirs[0].nan_to_num())
    assert not math.isfinite(optimizer.last_grad_norm or 0)


def test_sparse_gradients_are_measured_once_a_row():
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = sgdm.SGD(embedding.parameters(), lr=0.1, max_grad_norm=math.inf)
    embedding(torch.tensor([1, 1, 3])).sum().backward()
    optimizer.step()
    assert optimizer.last_grad_norm == pytest.approx(math.sqrt(2 * 4 + 2 * 1))


# ---- nonfinite ----


@ENGINES
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_skipped_step_changes_nothing(engine, bad, dtype, seed):
    params = parameters(dtype)
    optimizer = sgdm.SGD(params, **EVERYTHING, nonfinite="skip", engine=engine)
    for steps in range(3):
        give_gradients(params)
        assert params[3].grad is not None
        params[3].grad[39_999] = bad
        before = frozen_state(optimizer)
        optimizer.step()
        assert optimizer.last_step_skipped
        assert_unchanged(optimizer, before)
        params[3].grad[39_999] = 1
        optimizer.step()
        assert not optimizer.last_step_skipped
        assert optimizer.state[params[3]]["steps"] == steps + 1


@ENGINES
def test_raise_names_the_parameter_and_changes_nothing(engine):
    model = torch.nn.Linear(2, 3)
    optimizer = sgdm.SGD(model.named_parameters(), **EVERYTHING, nonfinite="raise", engine=engine)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    assert model.bias.grad is not None
    model.bias.grad[1] = math.nan
    before = frozen_state(optimizer)
    with pytest.raises(InvalidValueError) as caught:
        optimizer.step()
    assert str(caught.value) == (
        "the gradient of parameter 'bias' must be finite, as nonfinite='raise' asks, got "
        "'NaN or infinity among (3,) elements'; nothing was changed; lower lr, set max_grad_norm, "
        "or use nonfinite='skip'"
    )
    assert_unchanged(optimizer, before)


@ENGINES
def test_a_finite_gradient_whose_square_overflows_is_finite(engine):
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=1e-300, nonfinite="raise", engine=engine)
    step_with(optimizer, [1e300])
    assert p.item() == pytest.approx(0.0, abs=1e-15)


def test_the_parameter_without_a_name_is_named_by_its_place():
    p, q = parameter(1.0), parameter(2.0)
    optimizer = sgdm.SGD([{"params": [p]}, {"params": [q]}], nonfinite="raise")
    with pytest.raises(ValueError, match="the gradient of parameter 0 of group 1 must be finite"):
        step_with(optimizer, [1.0], [math.nan])


# ---- GradScaler ----


def give_scale(optimizer, scale, *, found_inf) -> None:
    """As GradScaler does before it calls step()."""
    optimizer.grad_scale = torch.tensor(scale)
    optimizer.found_inf = torch.tensor(found_inf)


def scaled_run(make, steps=6, *, fused: bool):
    """Train a line under a GradScaler; the third step overflows."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = make(model.parameters(), fused)
    scaler = GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    seen = []
    for t in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 4)).square().mean()
        scaler.scale(loss).backward()
        if t in (0, 3):
            assert model.weight.grad is not None
            model.weight.grad[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()
        seen.append([p.detach().clone() for p in model.parameters()])
    return seen, optimizer, scaler.get_scale()


@ENGINES
@pytest.mark.parametrize("fused", [True, False])
def test_under_a_grad_scaler_a_step_is_torchs(engine, fused):
    """Also when the first step overflows, after which torch's fused step has no valid momentum."""

    def ours(params, fused):
        return sgdm.SGD(params, lr=0.1, momentum=0.9, fused=fused, engine=engine)

    def torchs(params, fused):
        return torch.optim.SGD(params, lr=0.1, momentum=0.9)

    mine, optimizer, scale = scaled_run(ours, fused=fused)
    theirs, rival, rival_scale = scaled_run(torchs, fused=False)
    assert scale == rival_scale
    for a, b in zip(mine, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    buffers = [
        [state["momentum_buffer"] for state in o.state_dict()["state"].values()]
        for o in (optimizer, rival)
    ]
    assert all(torch.equal(x, y) for x, y in zip(*buffers, strict=True))


@ENGINES
def test_an_overflow_skips_the_whole_step(engine, seed):
    params = parameters()
    optimizer = sgdm.SGD(params, **EVERYTHING, fused=True, engine=engine)
    give_gradients(params)
    optimizer.step()
    before = frozen_state(optimizer)
    give_gradients(params)
    give_scale(optimizer, 8.0, found_inf=1.0)
    optimizer.step()
    assert optimizer.last_step_skipped
    assert_unchanged(optimizer, before)


@ENGINES
@pytest.mark.parametrize("scale", [8.0, 3.0])
def test_unscaling_and_clipping_multiply_once(engine, scale):
    p = parameter(1.0, 1.0)
    optimizer = sgdm.SGD([p], lr=1.0, fused=True, max_grad_norm=1.0, engine=engine)
    p.grad = scale * torch.tensor([3.0, 4.0], dtype=torch.float64)
    give_scale(optimizer, scale, found_inf=0.0)
    optimizer.step()
    assert optimizer.last_grad_norm == pytest.approx(5.0)
    assert optimizer.last_grad_norm is not None
    coefficient = (1 / scale) * (1 / (optimizer.last_grad_norm + 1e-6))
    expected = 1 - coefficient * scale * torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert torch.allclose(p, expected, rtol=1e-14)


def test_the_scaler_unscales_itself_without_fused():
    assert not sgdm.SGD([parameter(1.0)])._step_supports_amp_scaling
    assert sgdm.SGD([parameter(1.0)], fused=True)._step_supports_amp_scaling


# ---- ema_decay ----


@ENGINES
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.999])
def test_the_average_is_torchs_averaged_model(engine, decay, seed):
    model = torch.nn.Sequential(torch.nn.Linear(5, 33), torch.nn.Linear(33, 2))
    optimizer = sgdm.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, ema_decay=decay, engine=engine
    )
    rival = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(8, 5)).square().mean().backward()
        optimizer.step()
        rival.update_parameters(model)
    kept = [p.detach().clone() for p in model.parameters()]
    with optimizer.averaged():
        for p, q in zip(model.parameters(), rival.module.parameters(), strict=True):
            assert torch.equal(p, q)
    assert all(torch.equal(p, k) for p, k in zip(model.parameters(), kept, strict=True))


@ENGINES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_parameters_are_averaged_in_float32(engine, dtype, seed):
    params = parameters(dtype)
    optimizer = sgdm.SGD(params, lr=0.1, momentum=0.9, ema_decay=0.9, engine=engine)
    wide = None
    for _ in range(4):
        give_gradients(params)
        optimizer.step()
        now = [p.detach().float() for p in params]
        wide = now if wide is None else [a.lerp(p, 1 - 0.9) for a, p in zip(wide, now, strict=True)]
    assert wide is not None
    for p, a in zip(params, wide, strict=True):
        assert torch.equal(optimizer.state[p]["average"], a)


@ENGINES
def test_a_run_with_everything_resumes_with_the_same_bits(engine, seed):
    whole = parameters(torch.bfloat16)
    part = twins(whole)
    arguments: dict[str, Any] = {
        **EVERYTHING,
        "buffer_dtype": torch.float32,
        "max_grad_norm": 2.0,
        "engine": engine,
    }
    optimizer, first = sgdm.SGD(whole, **arguments), sgdm.SGD(part, **arguments)
    for t in range(6):
        if t == 3:
            file = io.BytesIO()
            torch.save(first.state_dict(), file)
            file.seek(0)
            first = sgdm.SGD(part, lr=9.0, max_grad_norm=2.0, engine=engine)
            first.load_state_dict(torch.load(file, weights_only=True))
        give_gradients(whole, part)
        optimizer.step()
        first.step()
    for p, q in zip(whole, part, strict=True):
        assert torch.equal(p, q)
        assert optimizer.state[p].keys() == first.state[q].keys()
        for key in ("momentum_buffer", "average"):
            ours, theirs = first.state[q][key], optimizer.state[p][key]
            assert ours.dtype == torch.float32
            assert torch.equal(ours, theirs)


def test_an_average_begins_with_the_first_step_of_its_parameter():
    p, late = parameter(0.0), parameter(0.0)
    optimizer = sgdm.SGD([p, late], lr=1.0, ema_decay=0.5)
    step_with(optimizer, [1.0], None)
    with optimizer.averaged():
        assert (p.item(), late.item()) == (-1.0, 0.0)
    step_with(optimizer, [1.0], [1.0])
    step_with(optimizer, None, [1.0])
    with optimizer.averaged():
        assert (p.item(), late.item()) == (-1.5, -1.5)
    assert (p.item(), late.item()) == (-2.0, -2.0)


def test_one_group_may_be_averaged_and_another_not():
    p, q = parameter(0.0), parameter(0.0)
    optimizer = sgdm.SGD([{"params": [p], "ema_decay": 0.5}, {"params": [q]}], lr=1.0)
    for _ in range(2):
        step_with(optimizer, [1.0], [1.0])
    assert "average" not in optimizer.state[q]
    with optimizer.averaged():
        assert (p.item(), q.item()) == (-1.5, -2.0)


def test_inside_averaged_nothing_is_stepped_or_loaded():
    p = parameter(0.0)
    optimizer = sgdm.SGD([p], lr=1.0, ema_decay=0.5)
    step_with(optimizer, [1.0])
    with optimizer.averaged():
        for call in (
            optimizer.step,
            lambda: optimizer.load_state_dict({}),
            lambda: optimizer.averaged().__enter__(),
            lambda: optimizer.at_iterate().__enter__(),
            lambda: copy.deepcopy(optimizer),
        ):
            with pytest.raises(InvalidUseError, match=r"outside `with optimizer\.averaged"):
                call()
    step_with(optimizer, [1.0])
    assert p.item() == -2.0


def test_an_error_inside_averaged_puts_the_parameters_back():
    p = parameter(0.0)
    optimizer = sgdm.SGD([p], lr=1.0, ema_decay=0.5)
    for _ in range(2):
        step_with(optimizer, [1.0])
    with pytest.raises(KeyError), optimizer.averaged():
        raise KeyError
    assert p.item() == -2.0
    step_with(optimizer, [1.0])


def test_averaged_needs_an_average():
    optimizer = sgdm.SGD([parameter(1.0)])
    with pytest.raises(InvalidUseError) as caught, optimizer.averaged():
        pass
    assert str(caught.value) == (
        "averaged() must be called on an optimizer that keeps averages; build it with ema_decay, "
        "such as 0.999"
    )


# ---- buffer_dtype ----


@ENGINES
@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
    ],
)
def test_a_buffer_of_another_dtype_is_float32_arithmetic_rounded_once(engine, stored, dtype, seed):
    p = torch.nn.Parameter(torch.randn(300).to(stored))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, buffer_dtype=dtype, engine=engine)
    b = None
    for _ in range(4):
        g = torch.randn(300).to(stored)
        wide = g.float() if b is None else torch.add(0.9 * b.float(), g.float())
        expected = torch.add(p.detach().float(), wide, alpha=-0.1).to(stored)
        b = wide.to(dtype)
        p.grad = g
        optimizer.step()
        assert torch.equal(p, expected)
        assert optimizer.state[p]["momentum_buffer"].dtype == dtype
        assert torch.equal(optimizer.state[p]["momentum_buffer"], b)


def test_a_float64_buffer_is_kept_by_the_engine_of_torch_operations():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, buffer_dtype=torch.float64)
    for _ in range(2):
        p.grad = torch.ones(2)
        optimizer.step()
    assert optimizer.state[p]["momentum_buffer"].dtype == torch.float64


def test_the_probe_makes_buffers_of_the_dtype_asked_for():
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    optimizer = sgdm.SGD([p], lr=0.0, momentum=0.9, buffer_dtype=torch.float32)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert optimizer.state[p]["momentum_buffer"].dtype == torch.float32


# ---- what is refused ----


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"max_grad_norm": 0.0},
            InvalidValueError,
            "max_grad_norm must be a number > 0, got 0.0; pass a norm such as max_grad_norm=1.0, "
            "math.inf to measure only, or None",
        ),
        (
            {"max_grad_norm": math.nan},
            InvalidValueError,
            "max_grad_norm must be a number > 0, got nan; pass a norm such as max_grad_norm=1.0, "
            "math.inf to measure only, or None",
        ),
        (
            {"max_grad_norm": "1"},
            InvalidTypeError,
            "max_grad_norm must be a number or None, got '1'; pass a norm such as "
            "max_grad_norm=1.0, math.inf to measure only, or None",
        ),
        (
            {"nonfinite": "ignore"},
            InvalidValueError,
            "nonfinite must be one of 'propagate', 'skip', 'raise', got 'ignore'; 'propagate' is "
            "what torch does",
        ),
        (
            {"ema_decay": 1.0},
            InvalidValueError,
            "ema_decay must be a number >= 0 and < 1, got 1.0; pass a factor such as "
            "ema_decay=0.999, or None for no average",
        ),
        (
            {"ema_decay": math.nan},
            InvalidValueError,
            "ema_decay must be a number >= 0 and < 1, got nan; pass a factor such as "
            "ema_decay=0.999, or None for no average",
        ),
        (
            {"buffer_dtype": torch.int32},
            InvalidValueError,
            "buffer_dtype must be None or one of torch.float16, torch.bfloat16, torch.float32, "
            "torch.float64, got torch.int32; None stores a buffer as its parameter is",
        ),
    ],
    ids=str,
)
def test_an_option_out_of_range_is_refused(arguments, error, message):
    with pytest.raises(error) as caught:
        sgdm.SGD([parameter(1.0)], **arguments)
    assert str(caught.value) == message


def test_a_real_buffer_of_a_complex_parameter_is_refused():
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(InvalidValueError) as caught:
        sgdm.SGD([p], buffer_dtype=torch.float32)
    assert str(caught.value) == (
        "buffer_dtype must be None in a group with complex parameters, got torch.float32; their "
        "buffers are complex"
    )


@ENGINES
def test_a_step_skipped_at_the_look_ahead_point_goes_back(engine):
    p = parameter(1.0)
    optimizer = sgdm.SGD(
        [p],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        convention="sutskever",
        nonfinite="skip",
        engine=engine,
    )
    seen = []

    def closure(gradient):
        seen.append(p.item())
        p.grad = torch.full_like(p, gradient)
        return 0.0

    optimizer.step(lambda: closure(1.0))
    before = frozen_state(optimizer)
    optimizer.step(lambda: closure(math.nan))
    assert seen[1] != before["params"][0].item()
    assert optimizer.last_step_skipped
    assert_unchanged(optimizer, before)


@ENGINES
@pytest.mark.parametrize(
    ("name", "value"), [("ema_decay", 2.0), ("ema_decay", math.nan), ("buffer_dtype", torch.int32)]
)
def test_a_group_that_is_changed_wrongly_is_not_stepped(engine, name, value, seed):
    params = parameters()
    optimizer = sgdm.SGD(params, **EVERYTHING, engine=engine)
    give_gradients(params)
    optimizer.step()
    optimizer.param_groups[0][name] = value
    before = [p.detach().clone() for p in params]
    with pytest.raises(InvalidValueError, match=name):
        optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
