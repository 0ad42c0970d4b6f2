"""What the engine for CUDA decides on the device: scales, norms, steps that are not made."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

import sgdm
from driving import buffer_of
from sgdm.engines.plan import Options, Part, Rule, StepPlan
from sgdm.errors import InvalidUseError, InvalidValueError
from sgdm.running import run

tl = pytest.importorskip("triton.language", reason="Triton is not installed")

from device_twins import (
    BLOCK,
    DEVICE,
    MOST,
    NEEDS_GPU,
    ON_GPU,
    QUIET,
    Twins,
    assert_bits,
    drawn,
    on_device,
    sgd,
)
from sgdm.engines.triton import kernels, layout, prepared, table

pytestmark = [QUIET, pytest.mark.long]
H = sgdm.Hyperparameters(lr=0.1, momentum=0.9, weight_decay=0.3)
RULE = Rule(sgdm.coefficients(sgdm.get_convention("torch"), H, first=False))


def state_of(optimizer: sgdm.SGD) -> list[Any]:
    """A copy of everything that a step may change."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    held = [dict(optimizer.state.get(p, {})) for p in params]
    return [
        [p.detach().clone() for p in params],
        [{k: v.clone() if torch.is_tensor(v) else v for k, v in own.items()} for own in held],
        [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
    ]


def assert_unchanged(optimizer: sgdm.SGD, before: list[Any]) -> None:
    (p_now, held_now, groups_now), (p_before, held_before, groups_before) = (
        state_of(optimizer),
        before,
    )
    assert all(torch.equal(x, y) for x, y in zip(p_now, p_before, strict=True))
    assert groups_now == groups_before
    for now, then in zip(held_now, held_before, strict=True):
        assert now.keys() == then.keys()
        assert all(torch.equal(torch.as_tensor(now[k]), torch.as_tensor(then[k])) for k in then)


def gradient_of(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


def give(optimizer: sgdm.SGD, scale: float, found: float) -> None:
    """As GradScaler does before it calls step()."""
    given: Any = optimizer
    given.grad_scale = torch.tensor(scale, device=DEVICE)
    given.found_inf = torch.tensor(found, device=DEVICE)


# ---- the norm ----


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize("size", [1e-3, 30.0])
def test_the_norm_is_that_of_clip_grad_norm(dtype, size, seed):
    starts = drawn(dtype)
    params = [torch.nn.Parameter(on_device(x)) for x in starts]
    optimizer = sgdm.SGD(params, lr=0.1, max_grad_norm=5.0, engine="triton")
    gradients = [(size * g).to(dtype) for g in drawn(dtype)]
    for p, g in zip(params, gradients, strict=True):
        p.grad = on_device(g)
    optimizer.step()
    norm = torch.linalg.vector_norm(torch.cat([g.double().flatten() for g in gradients])).item()
    assert optimizer.last_grad_norm == pytest.approx(norm, rel=1e-13)
    assert type(optimizer.last_grad_norm) is float


def test_more_blocks_than_programs(monkeypatch, seed):
    """Then each program adds up several, and still the last one to come adds up all."""
    blocks = layout.PROGRAMS_OF_NORM + 3
    if not ON_GPU:  # there it is compiled in
        monkeypatch.setattr(layout, "PROGRAMS_OF_NORM", 2)
        monkeypatch.setattr(kernels, "_PROGRAMS_OF_NORM", tl.constexpr(2))
        blocks = 5
    p = torch.nn.Parameter(on_device(torch.randn(blocks * BLOCK + 3)))
    q = torch.nn.Parameter(on_device(torch.randn(5)))
    optimizer = sgdm.SGD([p, q], lr=0.1, max_grad_norm=math.inf, engine="triton")
    for _ in range(2):  # the count of programs that are done begins at 0 again
        p.grad, q.grad = torch.randn_like(p), torch.randn_like(q)
        optimizer.step()
        norm = torch.cat([p.grad, q.grad]).double().norm().item()
        assert optimizer.last_grad_norm == pytest.approx(norm, rel=1e-13)
        assert optimizer._memory.on_device["triton"]._last.ticket.item() == 0


@pytest.mark.parametrize("size", [0.001, 30.0])
def test_a_clipped_step_in_double_precision(size, seed):
    twins = Twins(drawn(torch.float64), sgd(momentum=0.9, weight_decay=0.1, max_grad_norm=1.5))
    for _ in range(2):
        twins.step([size * g for g in drawn(torch.float64)])
    for p, q in zip(twins.ours, twins.theirs, strict=True):
        assert torch.allclose(p.cpu(), q, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("max_norm", [0.7, 5.0, 1e6, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_given_the_same_norm_a_clipped_step_has_the_same_bits(dtype, max_norm):
    """The norm 5 is exact on both engines, so the coefficient is one number."""
    starts = [torch.linspace(-1, 1, 4).to(dtype), torch.ones(1, dtype=dtype)]
    twins = Twins(starts, sgd(momentum=0.9, weight_decay=0.1, max_grad_norm=max_norm))
    for _ in range(2):
        twins.step([torch.tensor([3.0, 0, 0, 0]).to(dtype), torch.tensor([4.0]).to(dtype)])
        assert twins.mine.last_grad_norm == twins.rival.last_grad_norm == 5.0
    twins.assert_equal()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("max_norm", [1.0, math.inf])
def test_a_norm_that_is_not_finite_goes_through_as_in_torch(bad, max_norm):
    twins = Twins([torch.tensor([1.0, 2.0])], sgd(max_grad_norm=max_norm))
    twins.step([torch.tensor([bad, 1.0])])
    twins.assert_equal()
    assert not math.isfinite(twins.mine.last_grad_norm or 0)


# ---- steps that are not made ----


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_skipped_step_changes_nothing(dtype, bad, seed):
    params = [torch.nn.Parameter(on_device(x)) for x in drawn(dtype)]
    optimizer = sgdm.SGD(params, lr=0.1, **MOST, nonfinite="skip", engine="triton")
    for steps in range(3):
        for p, g in zip(params, drawn(dtype), strict=True):
            p.grad = on_device(g)
        gradient = gradient_of(params[1])
        good = gradient[BLOCK].item()
        gradient[BLOCK] = bad
        before = state_of(optimizer)
        optimizer.step()
        assert optimizer.last_step_skipped is True
        assert_unchanged(optimizer, before)
        gradient[BLOCK] = good
        optimizer.step()
        assert optimizer.last_step_skipped is False
        assert optimizer.state[params[1]]["steps"] == steps + 1


@pytest.mark.parametrize("norm", [None, 1.0])
def test_an_overflow_skips_the_whole_step(norm, seed):
    params = [torch.nn.Parameter(on_device(x)) for x in drawn()]
    optimizer = sgdm.SGD(params, lr=0.1, **MOST, fused=True, max_grad_norm=norm, engine="triton")
    for found in (1.0, 0.0, 1.0):
        for p, g in zip(params, drawn(), strict=True):
            p.grad = on_device(g)
        before = state_of(optimizer)
        give(optimizer, 8.0, found)
        optimizer.step()
        assert optimizer.last_step_skipped is bool(found)
        assert (optimizer.last_grad_norm is None) is (norm is None or bool(found))
        if found:
            assert_unchanged(optimizer, before)
        else:
            assert not torch.equal(before[0][1], params[1])


@pytest.mark.parametrize("scale", [8.0, 3.0])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_unscaling_and_clipping_multiply_once(scale, max_norm):
    build = sgd(momentum=0.9, fused=True, max_grad_norm=max_norm)
    twins = Twins([torch.tensor([1.0, 1.0])], build)
    for _ in range(2):
        give(twins.mine, scale, 0.0)
        give(twins.rival, scale, 0.0)
        twins.step([scale * torch.tensor([3.0, 4.0])])
        assert twins.mine.last_grad_norm == twins.rival.last_grad_norm
    twins.assert_equal()


def test_raise_names_the_parameter_and_changes_nothing(seed):
    model = torch.nn.Linear(2, 3).to(DEVICE)
    optimizer = sgdm.SGD(
        model.named_parameters(), lr=0.1, **MOST, nonfinite="raise", engine="triton"
    )
    for t in range(2):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        gradient_of(model.bias)[1] = math.nan
        before = state_of(optimizer)
        with pytest.raises(InvalidValueError, match="the gradient of parameter 'bias' must be"):
            optimizer.step()
        assert_unchanged(optimizer, before)
        gradient_of(model.bias)[1] = 1 + t
        optimizer.step()


def test_a_finite_gradient_whose_square_overflows_is_finite():
    p = torch.nn.Parameter(on_device(torch.ones(1, dtype=torch.float64)))
    optimizer = sgdm.SGD([p], lr=1e-300, nonfinite="raise", engine="triton")
    p.grad = torch.full_like(p, 1e300)
    optimizer.step()
    assert p.item() == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("fused", [True, False])
def test_under_a_grad_scaler_a_step_is_that_of_torchs_operations(fused):
    """The first and fourth steps overflow."""
    ends = []
    for engine, device in (("triton", DEVICE), ("eager", "cpu")):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(4).to(device))
        optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, fused=fused, engine=engine)
        scaler = GradScaler(device, init_scale=2.0**10, growth_interval=2)
        for t in range(6):
            optimizer.zero_grad()
            scaler.scale((p * (math.inf if t in (0, 3) else 0.5)).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        ends.append((p, buffer_of(optimizer, p), scaler.get_scale()))
    (p, b, scale), (q, c, rival_scale) = ends
    assert scale == rival_scale
    assert_bits(p, q)
    assert_bits(b, c)


def test_a_step_skipped_at_the_look_ahead_point_goes_back():
    p = torch.nn.Parameter(on_device(torch.ones(3)))
    optimizer = sgdm.SGD(
        [p],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        convention="sutskever",
        nonfinite="skip",
        engine="triton",
    )

    def closure(gradient: float) -> float:
        p.grad = torch.full_like(p, gradient)
        return 0.0

    optimizer.step(lambda: closure(1.0))
    before = state_of(optimizer)
    optimizer.step(lambda: closure(math.nan))
    assert optimizer.last_step_skipped
    assert_unchanged(optimizer, before)


# ---- what nobody waits for ----


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_grad_norm": 1.0},
        {"nonfinite": "skip"},
        {"fused": True},
        {"fused": True, "nonfinite": "skip", "max_grad_norm": 1.0, "ema_decay": 0.5},
        {"convention": "bengio", "nonfinite": "skip"},
    ],
    ids=str,
)
def test_after_the_first_step_nobody_waits(arguments, monkeypatch, seed):
    p = torch.nn.Parameter(on_device(torch.randn(5)))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, engine="triton", **arguments)
    for t in range(4):
        p.grad = on_device(torch.randn(5))
        if arguments.get("fused"):
            give(optimizer, 2.0, 0.0)
        with monkeypatch.context() as patch:
            if t > 0:
                for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
                    patch.setattr(Tensor, name, lambda x: pytest.fail("it waits"))
                if DEVICE == "cuda":
                    torch.cuda.set_sync_debug_mode("error")
            try:
                optimizer.step()
            finally:
                if DEVICE == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
    assert optimizer.last_step_skipped is False


def test_a_step_that_counts_waits_where_it_may_be_skipped(monkeypatch):
    """A dampened first step makes a buffer and is counted, and so is every later one."""
    waits = []
    outcome = prepared.TritonStep.run

    def noted(self, options):
        waits.append(options.waits)
        return outcome(self, options)

    monkeypatch.setattr(prepared.TritonStep, "run", noted)
    for arguments, expected in (
        ({"dampening": 0.5}, [True, True, True]),
        ({}, [True, False, False]),
        ({"ema_decay": 0.5}, [True, False, False]),
        ({"nonfinite": "raise"}, [True, True, True]),
        ({"convention": "bengio-lr-outside"}, [True, False, True]),  # whose group remembers lr
    ):
        p = torch.nn.Parameter(on_device(torch.ones(2)))
        given: dict[str, Any] = {"nonfinite": "skip", "momentum": 0.9, **arguments}
        optimizer = sgdm.SGD([p], lr=0.1, engine="triton", **given)
        waits.clear()
        for t in range(3):
            p.grad = torch.ones_like(p)
            if t == 2:
                optimizer.param_groups[0]["lr"] = 0.05
            optimizer.step()
        assert waits == expected, arguments


def test_a_first_step_that_a_caller_does_not_wait_for_has_no_buffer_if_it_is_skipped():
    p, g = on_device(torch.ones(3)), on_device(torch.tensor([1.0, math.nan, 1.0]))
    rule = Rule(sgdm.coefficients(sgdm.get_convention("torch"), H, first=True))
    part = Part(rule, [p], [g])
    outcome = run(StepPlan(parts=[part]), engine="triton", options=Options(checks_finite=True))
    assert (outcome.skipped, outcome.finite, part.buffers) == (True, False, None)
    assert outcome.nonfinite is p
    assert p._version == 0


def test_what_the_device_decides_is_told_by_tensors(seed):
    parts = [Part(RULE, *([on_device(torch.randn(3))] for _ in range(3)))]
    asked = Options(max_grad_norm=1.0, checks_finite=True)
    first = run(StepPlan(parts=parts), engine="triton", options=asked)
    parts[0].gradients[0][1] = math.nan
    second = run(StepPlan(parts=parts), engine="triton", options=asked)
    for outcome, skipped in ((first, 0.0), (second, 1.0)):  # each keeps its own
        assert isinstance(outcome.grad_norm, Tensor)
        assert isinstance(outcome.skipped, Tensor)
        assert isinstance(outcome.finite, Tensor)
        assert outcome.skipped.device.type == DEVICE
        assert (outcome.skipped.item(), outcome.finite.item()) == (skipped, 1 - skipped)


# ---- CUDA graphs ----


@pytest.fixture
def capturing(monkeypatch):
    """As if what is queued were captured, where there is no GPU; it is run all the same."""

    def switch(*, on: bool) -> None:
        for module in (table, prepared):
            monkeypatch.setattr(module, "is_capturing", lambda _: on)

    return switch


def test_a_captured_step_finds_everything_in_place(capturing, seed):
    p = torch.nn.Parameter(on_device(torch.ones(5)))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, max_grad_norm=1.0, engine="triton")
    p.grad = on_device(torch.ones(5))
    optimizer.step()
    capturing(on=True)
    with pytest.raises(InvalidUseError, match="must find its tensors and hyperparameters where"):
        optimizer.step()  # the buffer is new to it
    capturing(on=False)
    optimizer.step()
    capturing(on=True)
    optimizer.step()
    gradient = p.grad
    p.grad = gradient.clone()
    before = p.detach().clone()
    with pytest.raises(InvalidUseError, match=r"zero_grad\(set_to_none=False\)"):
        optimizer.step()
    assert torch.equal(p, before)


def test_a_captured_step_cannot_be_waited_for(capturing):
    p = torch.nn.Parameter(on_device(torch.ones(5)))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, nonfinite="raise", engine="triton")
    p.grad = on_device(torch.ones(5))
    for _ in range(2):
        optimizer.step()
    capturing(on=True)
    with pytest.raises(InvalidUseError, match="must not be waited for"):
        optimizer.step()


def test_hyperparameters_are_refreshed_where_a_captured_step_reads_them(capturing, seed):
    p = torch.nn.Parameter(on_device(torch.ones(5)))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, convention="bengio-lr-outside", engine="triton")
    p.grad = on_device(torch.ones(5))
    with pytest.raises(InvalidUseError, match="must find the tensors of a step that was captured"):
        optimizer.refresh_hyperparameters()
    for _ in range(2):
        optimizer.step()
    capturing(on=True)
    optimizer.step()
    capturing(on=False)
    (captured,) = optimizer._memory.on_device["triton"]._captured
    before, weight = captured.numbers.clone(), optimizer.param_groups[0]["iterate_weight"]
    optimizer.param_groups[0]["lr"] = 0.05
    optimizer.refresh_hyperparameters()
    assert not torch.equal(captured.numbers, before)
    assert optimizer.param_groups[0]["iterate_weight"] == pytest.approx(weight / 2)

    # Steps of other tensors do not touch what the graph reads, and it is kept.
    kept = (captured.numbers.clone(), captured.gradients.clone())
    p.grad = p.grad.clone()
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()
    assert torch.equal(captured.numbers, kept[0])
    assert torch.equal(captured.gradients, kept[1])
    with pytest.raises(InvalidUseError, match="must find the tensors of a step that was captured"):
        optimizer.refresh_hyperparameters()


def test_without_the_engine_there_is_nothing_to_refresh():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with pytest.raises(InvalidUseError, match="got tensors that engine='triton' does not step"):
        sgdm.SGD([p], lr=0.1).refresh_hyperparameters()


@NEEDS_GPU
@pytest.mark.parametrize("arguments", [{}, {"max_grad_norm": 1.0, "nonfinite": "skip"}], ids=str)
def test_a_replayed_graph_is_the_loop(arguments, seed):
    starts, gradients = drawn(), [drawn() for _ in range(6)]
    twins = Twins(starts, sgd(momentum=0.9, weight_decay=0.1, **arguments))
    graph = torch.cuda.CUDAGraph()
    for t, given in enumerate(gradients):
        for optimizer in (twins.mine, twins.rival):
            optimizer.param_groups[0]["lr"] = 0.1 / (t + 1)
        for p, q, g in zip(twins.ours, twins.theirs, given, strict=True):
            q.grad = g
            if p.grad is None:
                p.grad = on_device(g)
            p.grad.copy_(g)
        twins.rival.step()
        if t < 2:
            twins.mine.step()
            continue
        if t == 2:
            kept = [x.clone() for x in (*twins.ours, *map_buffers(twins))]
            twins.mine.step()  # with the numbers of this step: the capture uploads nothing
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                twins.mine.step()
            with torch.no_grad():
                for x, k in zip((*twins.ours, *map_buffers(twins)), kept, strict=True):
                    x.copy_(k)
        twins.mine.refresh_hyperparameters()
        graph.replay()
    for p, q in zip(twins.ours, twins.theirs, strict=True):
        assert torch.allclose(p.cpu(), q, rtol=1e-6)
    if not arguments:
        twins.assert_equal()


def map_buffers(twins: Twins) -> list[Tensor]:
    return [buffer_of(twins.mine, p) for p in twins.ours]
