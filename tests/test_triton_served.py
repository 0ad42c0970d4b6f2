"""What the engine for CUDA serves, refuses and leaves to others."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import sgdm
from sgdm import extras
from sgdm.engines import choose
from sgdm.engines.plan import Part, Rule, StepPlan
from sgdm.errors import InvalidUseError, InvalidValueError, MissingExtraError
from sgdm.functional import step
from sgdm.running import run
from sharding import full

pytest.importorskip("triton", reason="Triton is not installed")

from device_twins import DEVICE, NEEDS_GPU, QUIET, assert_bits, drawn, on_device
from sgdm.engines.triton import prepared

pytestmark = [QUIET, pytest.mark.long]
H = sgdm.Hyperparameters(lr=0.1, momentum=0.9)
RULE = Rule(sgdm.coefficients(sgdm.get_convention("torch"), H, first=False))


def x(*shape: int, dtype=torch.float32) -> Tensor:
    return torch.ones(shape or (6,), dtype=dtype, device=DEVICE)


def part(
    p: Tensor | None = None,
    g: Tensor | None = None,
    b: Tensor | None = None,
    a: Tensor | None = None,
) -> Part:
    return Part(
        RULE,
        [x() if p is None else p],
        [x() if g is None else g],
        [x() if b is None else b],
        None if a is None else [a],
    )


def with_gaps() -> Tensor:
    return x(6, 2)[:, 0]


shared = x()
REFUSED: dict[str, Callable[[], Part]] = {
    "a parameter is a view that leaves gaps in its memory": lambda: part(
        with_gaps(), b=with_gaps()
    ),
    "a momentum_buffer lies otherwise in memory than its parameter": lambda: part(b=with_gaps()),
    "a moving average lies otherwise in memory than its parameter": lambda: part(a=with_gaps()),
    "a gradient is float64 and its parameter is not, or the other way round": lambda: part(
        g=x(dtype=torch.float64)
    ),
    "a momentum_buffer is float64 and its parameter is not, or the other way round": lambda: part(
        b=x(dtype=torch.float64)
    ),
    "a parameter is of a dtype other than float64, float32, float16 and bfloat16": lambda: part(
        *(x(dtype=torch.complex64) for _ in range(3))
    ),
    "two of the tensors share memory": lambda: part(shared, b=shared),
    "a gradient is not a plain strided tensor": lambda: part(
        x(6, 1), x(6, 1).to_sparse(1), x(6, 1)
    ),
    "a tensor is a negated view": lambda: part(torch._neg_view(x())),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_it_cannot_do_right_it_refuses(reason):
    plan = StepPlan(parts=[REFUSED[reason]()])
    answer = prepared.prepare(plan)
    assert answer == reason
    with pytest.raises(RuntimeError, match=r"engine='triton' cannot run this step|layout"):
        run(plan, engine="triton")


@pytest.mark.parametrize("reason", REFUSED)
def test_what_it_refuses_is_not_written(reason):
    given = REFUSED[reason]()
    before = [t.clone() for u in given.updates() for t in u if t is not None]
    prepared.prepare(StepPlan(parts=[given]))
    after = [t for u in given.updates() for t in u if t is not None]
    assert all(torch.equal(s.to_dense(), t.to_dense()) for s, t in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda: part(g=x(5)), InvalidValueError, r"gradient must be of shape \(6,\)"),
        (lambda: part(b=x(5)), InvalidValueError, r"momentum_buffer must be of shape \(6,\)"),
        (lambda: part(a=x(5)), InvalidValueError, r"average must be of shape \(6,\)"),
        (
            lambda: part(g=torch.empty(6, device="meta")),
            InvalidValueError,
            "gradient must be of shape",
        ),
    ],
)
def test_what_fits_no_engine_has_the_error_of_every_engine(given, error, message):
    with pytest.raises(error, match=message):
        run(StepPlan(parts=[given()]), engine="triton")


def test_what_autograd_goes_through_is_refused():
    assert prepared.prepare(StepPlan(differentiable=True, parts=[part()])) == (
        "autograd does not record what it writes (differentiable=True)"
    )
    p = torch.nn.Parameter(x())
    p.grad = x()
    lr = torch.tensor(0.1, requires_grad=True)
    optimizer = sgdm.SGD([p], lr=lr, engine="triton")
    with pytest.raises(InvalidUseError, match="autograd goes through a hyperparameter"):
        optimizer.step()


def test_a_coefficient_too_large_for_float32_is_refused():
    p = torch.nn.Parameter(x())
    p.grad = x()
    optimizer = sgdm.SGD([p], lr=1e300, engine="triton")
    with pytest.raises(InvalidValueError, match="a number of float32"):
        optimizer.step()
    q = torch.nn.Parameter(x(dtype=torch.float64))
    q.grad = torch.full_like(q, 1e-300)
    sgdm.SGD([q], lr=1e300, engine="triton").step()
    assert torch.allclose(q, torch.zeros_like(q), atol=1e-15)


def test_on_the_cpu_it_runs_in_the_interpreter_only(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with pytest.raises(InvalidUseError) as caught:
        sgdm.SGD([p], lr=0.1, engine="triton").step()
    assert str(caught.value) == (
        "engine='triton' cannot run this step: a parameter is not on a CUDA device (on the CPU it "
        "runs in Triton's interpreter only, where TRITON_INTERPRET=1 is set before Triton is "
        "loaded); use engine='auto', which takes torch's operations where it must"
    )


def test_auto_leaves_the_cpu_to_others(monkeypatch):
    """Also what the native engine refuses, and though the interpreter could."""
    monkeypatch.setattr(prepared, "prepare", lambda plan: pytest.fail("it was asked"))
    for p in (torch.ones(3), torch.ones(6, 2)[:, 0]):
        q = torch.nn.Parameter(p)
        q.grad = torch.ones_like(p)
        sgdm.SGD([q], lr=0.5).step()
        assert torch.equal(q, torch.full_like(p, 0.5))


def test_auto_takes_it_before_torchs_operations(monkeypatch):
    """What the native engine leaves; here it leaves everything."""
    taken: list[str] = []
    monkeypatch.setattr(choose.native, "prepare", lambda plan: "not on the CPU")
    monkeypatch.setattr(choose.triton, "prepare", lambda plan: taken.append("triton") or "gone")
    monkeypatch.setattr(choose.eager, "prepare", lambda plan: taken.append("eager"))
    choose.prepare(StepPlan(), "auto")
    assert taken == ["triton", "eager"]


def test_without_triton_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        sgdm.SGD([torch.nn.Parameter(torch.ones(2))], engine="triton")
    assert str(caught.value) == (
        "triton must be installed for this; run: pip install 'sgdm[triton]'"
    )


def test_nothing_of_it_is_loaded_for_a_step_on_the_cpu():
    """torch loads Triton by itself, with Dynamo."""
    program = (
        "import torch, sgdm, sys\n"
        "p = torch.nn.Parameter(torch.ones(2)); p.grad = torch.ones(2)\n"
        "sgdm.SGD([p], lr=0.1).step()\n"
        "print([m for m in sys.modules if m.startswith('sgdm.engines.triton.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "['sgdm.engines.triton.interpreted']\n"


# ---- beside the rest of the library ----


def test_autograd_notices_what_was_written():
    p, q = (torch.nn.Parameter(x(3)) for _ in range(2))
    optimizer = sgdm.SGD([p, q], lr=0.1, momentum=0.9, ema_decay=0.5, engine="triton")
    loss = (p * p).sum()
    p.grad = x(3)
    for _ in range(3):
        versions = [p._version, *(t._version for t in optimizer.state[p].values())]
        optimizer.step()
        now = [p._version, *(t._version for t in optimizer.state[p].values())]
        assert all(new > old for new, old in zip(now, versions, strict=False))
    assert (q._version, p.grad._version) == (0, 0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_steps_inside_backward(seed):
    starts = drawn(shapes=((3, 4), (4,), (4, 4), (4,)))
    ends = []
    for engine, device in (("triton", DEVICE), ("eager", "cpu")):
        params = [torch.nn.Parameter(s.clone().to(device)) for s in starts]
        optimizer = sgdm.SGD(params, lr=0.1, momentum=0.9, engine=engine)
        with sgdm.step_in_backward(optimizer):
            for t in range(3):
                torch.stack([(p * (t + i)).sum() for i, p in enumerate(params)]).sum().backward()
                optimizer.step()
        ends.append(params)
    for ours, theirs in zip(*ends, strict=True):
        assert_bits(ours, theirs)


def test_a_step_as_a_function(seed):
    start, gradient = torch.randn(5), torch.randn(5)
    ends = []
    for engine, device in (("triton", DEVICE), ("eager", "cpu")):
        params, state = {"w": start.to(device)}, None
        for _ in range(3):
            given = {"w": gradient.to(device)}
            params, state = step(
                params, given, state, lr=0.1, momentum=0.9, max_grad_norm=1e6, engine=engine
            )
        ends.append(params["w"])
    assert_bits(*ends)


def test_state_goes_from_engine_to_engine(seed):
    start = torch.randn(40)
    p, q = torch.nn.Parameter(on_device(start)), torch.nn.Parameter(start.clone())
    engines = ("triton", "eager"), ("eager", "triton")
    rival = sgdm.SGD([q], lr=0.1, momentum=0.9, ema_decay=0.5, engine="eager")
    saved = None
    for first in engines:
        for engine in first:
            optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, ema_decay=0.5, engine=engine)
            if saved is not None:
                optimizer.load_state_dict(saved)
            g = torch.randn(40)
            p.grad, q.grad = on_device(g), g
            optimizer.step()
            rival.step()
            saved = optimizer.state_dict()
    if DEVICE == "cpu":  # on a GPU torch's own operations need not have the same bits
        assert_bits(p, q)
    assert torch.allclose(p.cpu(), q)


def sharded_run(engine: str, arguments: dict[str, Any]) -> tuple[list[Tensor], list[Any]]:
    """Train a small network under FSDP2."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    model.to(DEVICE)
    mesh = init_device_mesh(DEVICE, (dist.get_world_size(),))
    fully_shard(model, mesh=mesh)
    optimizer = sgdm.SGD(model.parameters(), lr=0.1, momentum=0.9, engine=engine, **arguments)
    told = []
    for t in range(4):
        optimizer.zero_grad()
        scale = float("inf") if t == 2 and "nonfinite" in arguments else 1.0
        (scale * model(torch.ones(2, 5, device=DEVICE)).square().sum()).backward()
        optimizer.step()
        told.append(optimizer.last_step_skipped)
    return [full(p).detach().cpu() for p in model.parameters()], told


@pytest.mark.parametrize(
    "arguments", [{"ema_decay": 0.5}, {"max_grad_norm": 1e6, "nonfinite": "skip"}], ids=str
)
@pytest.mark.parametrize("processes", [2 if DEVICE == "cpu" else min(2, torch.cuda.device_count())])
def test_shards_are_stepped(world, processes, arguments):
    ends = [world.run(processes, sharded_run, engine, arguments) for engine in ("triton", "eager")]
    for (ours, mine), (theirs, rival) in zip(*ends, strict=True):
        assert mine == rival == [False, False, "nonfinite" in arguments, False]
        for p, q in zip(ours, theirs, strict=True):
            if DEVICE == "cpu":
                assert_bits(p, q)
            assert torch.allclose(p, q)


@NEEDS_GPU
def test_a_tensor_of_more_elements_than_an_int32_counts():
    if torch.cuda.get_device_properties(0).total_memory < 20e9:
        pytest.skip("the GPU has less than 20 GB")
    size = 2**31 + 5
    p = torch.zeros(size, dtype=torch.bfloat16, device=DEVICE)
    g = torch.ones(1, dtype=torch.bfloat16, device=DEVICE).repeat(size)
    h = sgdm.Hyperparameters(lr=0.1, momentum=0.0)
    rule = Rule(sgdm.coefficients(sgdm.get_convention("torch"), h, first=True))
    run(StepPlan(parts=[Part(rule, [p], [g])]), engine="triton")
    assert bool((p == torch.tensor(-0.1, dtype=torch.bfloat16, device=DEVICE)).all())
