"""What every convention must pass on every engine, whatever it is."""

import math
from itertools import product
from typing import Any

import pytest
import torch

import sgdm
from cases import EVERY_RULE, Case, place, variants
from sgdm.engines.plan import Part, Rule, StepPlan
from sgdm.recurrence import needs_closure
from sgdm.running import run

ENGINES = ("eager", "native")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EVERY = pytest.mark.parametrize("case", EVERY_RULE, ids=str)
ON_EVERY_ENGINE = pytest.mark.parametrize("engine", ENGINES)


def make(case: Case, params, engine: str = "auto", **arguments) -> sgdm.SGD:
    given: dict[str, Any] = {}
    given.update(lr=0.05, momentum=0.9)
    given.update(case.options)
    given.update(arguments)
    return sgdm.SGD(params, convention=case.convention, engine=engine, **given)


def descend(optimizer, p, steps, curvature: Any = 1.0, shift=0.0) -> None:
    """Steps on curvature * (p - shift)²/2."""

    def closure():
        p.grad = (curvature * (p.detach() - shift)).to(p.dtype)
        return torch.tensor(0.0)

    for _ in range(steps):
        optimizer.step(closure)


def test_the_battery_covers_every_convention():
    covered = {place(case) for case in EVERY_RULE}
    rows = [row for row in sgdm.list_conventions() if row.runs]
    assert len(rows) > 60
    assert all(place(case) in covered for row in rows for case in variants(row))


@EVERY
@ON_EVERY_ENGINE
def test_it_converges(case, engine):
    p = torch.nn.Parameter(torch.tensor([5.0, -3.0], dtype=torch.float64))
    descend(make(case, [p], engine), p, 400, torch.tensor([1.0, 4.0]), 1.0)
    assert torch.allclose(p, torch.ones(2, dtype=torch.float64), atol=1e-6)


@EVERY
@ON_EVERY_ENGINE
def test_maximize_goes_up(case, engine, seed):
    """Maximising f is minimising -f: bit for bit, decay included."""
    ends = []
    for sign, maximize in ((1, False), (-1, True)):
        p = torch.nn.Parameter(torch.ones(5))
        optimizer = make(case, [p], engine, maximize=maximize, weight_decay=0.1)

        def closure(p=p, sign=sign):
            p.grad = sign * torch.sin(3 * p.detach())
            return torch.tensor(0.0)

        for _ in range(5):
            optimizer.step(closure)
        ends.append(p.detach())
    assert torch.equal(*ends)


@EVERY
@pytest.mark.parametrize(
    ("engine", "dtype"), [*product(ENGINES, DTYPES), ("eager", torch.complex64)], ids=str
)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (17,), (2, 3, 4), (0, 3)], ids=str)
def test_dtype_shape_and_gradient_are_kept(case, engine, dtype, shape, seed):
    p = torch.nn.Parameter(torch.randn(shape).to(dtype))
    optimizer = make(case, [p], engine, weight_decay=0.1)
    for _ in range(3):
        g = torch.randn(shape).to(dtype)
        kept = g.clone()

        def closure(g=g):
            p.grad = g
            return torch.tensor(0.0)

        optimizer.step(closure)
        assert p.grad is g
        assert torch.equal(g, kept)
    buffer = optimizer.state[p]["momentum_buffer"]
    assert (p.dtype, p.shape) == (dtype, shape)
    assert (buffer.dtype, buffer.shape) == (dtype, shape)
    assert not buffer.requires_grad


@EVERY
@ON_EVERY_ENGINE
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("decay", [{}, {"weight_decay": 0.1}, {"weight_decay_mode": "lr"}], ids=str)
def test_sixteen_bits_are_float32_rounded_once(case, engine, dtype, decay, seed):
    """Each step from the stored tensors, in float32, and one rounding of each tensor stored."""
    p = torch.nn.Parameter(torch.randn(67).to(dtype))
    optimizer = make(case, [p], engine, **decay)
    for t in range(6):
        g = torch.randn(67).to(dtype)
        q = torch.nn.Parameter(p.detach().float())
        wide = make(case, [q], "eager", **decay)
        held = torch.zeros(67)
        if t:
            held = optimizer.state[p]["momentum_buffer"].float()
            wide.state[q] = {"momentum_buffer": held, "steps": t}
        # The look-ahead point is a stored tensor too, rounded before the step goes on from it.
        if case.needs_closure and t:
            with torch.no_grad():
                point = (q + 0.9 * held).to(dtype).float()
            row = sgdm.get_convention("sutskever")
            h = case.hyperparameters(0, lambda _: 0.05, lambda _: 0.9, **decay)
            c = sgdm.coefficients(row, h, first=False)
            d = torch.add(g.float(), point, alpha=c.coupled_decay)
            q = torch.add(point * c.keep, d, alpha=c.step).detach()
            held.mul_(c.retain).add_(d, alpha=c.gain)
        else:
            q.grad = g.float()
            wide.step(lambda: torch.tensor(0.0))
            held = wide.state[q]["momentum_buffer"]

        def closure(g=g):
            p.grad = g
            return torch.tensor(0.0)

        optimizer.step(closure)
        assert torch.equal(p, q.to(dtype))
        assert torch.equal(optimizer.state[p]["momentum_buffer"], held.to(dtype))


@ON_EVERY_ENGINE
@pytest.mark.parametrize("p_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("b_dtype", [torch.float32, torch.bfloat16, None])
def test_mixed_precision(engine, p_dtype, b_dtype, seed):
    """A buffer of another precision than its parameter keeps it; each is rounded once."""
    start, gradient, held = torch.randn(3, 70).unbind()
    p = torch.nn.Parameter(start.to(p_dtype))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, engine=engine)
    wide_p = p.detach().clone().float()
    wide_b = gradient.to(p_dtype).float()
    if b_dtype is not None:
        optimizer.state[p] = {"momentum_buffer": held.to(b_dtype)}
        wide_b = (0.9 * held.to(b_dtype).float()).add(wide_b, alpha=1.0)
    p.grad = gradient.to(p_dtype)
    optimizer.step()
    assert torch.equal(p, wide_p.add(wide_b, alpha=-0.1).to(p_dtype))
    buffer = optimizer.state[p]["momentum_buffer"]
    assert torch.equal(buffer, wide_b.to(b_dtype or p_dtype))
    assert buffer.dtype == (b_dtype or p_dtype)


@ON_EVERY_ENGINE
def test_a_gradient_of_lower_precision_makes_a_buffer_of_its_parameters(engine, seed):
    """As `grad_dtype` allows: arithmetic in float32, and state that does not lose what p keeps."""
    p, g = torch.randn(70), torch.randn(70).bfloat16()
    h = sgdm.Hyperparameters(lr=0.1, momentum=0.9)
    c = sgdm.coefficients(sgdm.get_convention("torch"), h, first=True)
    part = Part(Rule(c), [q := p.clone()], [g])
    run(StepPlan(parts=[part]), engine=engine)
    assert part.buffers is not None
    (buffer,) = part.buffers
    assert buffer.dtype == torch.float32
    assert torch.equal(buffer, g.float())
    assert torch.equal(q, torch.add(p, g.float(), alpha=-0.1))


@EVERY
@ON_EVERY_ENGINE
@pytest.mark.parametrize("stop", [0, 1, 5])
def test_a_run_resumes_at_any_step_with_the_same_bits(case, engine, stop, seed):
    start = torch.randn(33)
    whole, part, rest = (torch.nn.Parameter(start.clone()) for _ in range(3))
    optimizer = make(case, [whole], engine)
    descend(optimizer, whole, 9)
    first = make(case, [part], engine)
    descend(first, part, stop)
    second = make(case, [rest], engine, lr=0.123)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        rest.copy_(part)
    descend(second, rest, 9 - stop)
    assert torch.equal(whole, rest)


@EVERY
@ON_EVERY_ENGINE
def test_a_parameter_without_gradient_is_left_alone(case, engine):
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = make(case, [p, q], engine, weight_decay=0.1)
    descend(optimizer, p, 3)
    assert torch.equal(q, torch.ones(3))
    assert q not in optimizer.state
    q.grad = torch.ones(3)
    before = p.detach().clone()
    p.grad = None
    optimizer.step(lambda: torch.tensor(0.0))
    assert torch.equal(p, before)
    assert not torch.equal(q, torch.ones(3))


@EVERY
@ON_EVERY_ENGINE
def test_grouping_does_not_change_the_bits(case, engine, seed):
    starts = [torch.randn(n) for n in (1, 8, 33)]
    ends = []
    for split in (3, 1):
        params = [torch.nn.Parameter(x.clone()) for x in starts]
        optimizer = make(case, [{"params": params[:split]}, {"params": params[split:]}], engine)
        gradients = [torch.sin(5 * x) for x in starts]

        def closure(params=params, gradients=gradients):
            for p, g in zip(params, gradients, strict=True):
                p.grad = g
            return torch.tensor(0.0)

        for _ in range(4):
            optimizer.step(closure)
        ends.append([p.detach() for p in params])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@EVERY
@pytest.mark.parametrize("engine", ["auto", "eager"])  # "native" does not serve all of them
def test_the_layout_does_not_change_the_bits(case, engine, seed):
    """Transposed, strided, expanded and negated tensors step as contiguous ones do."""
    layouts = {
        "contiguous": lambda x: x.clone(),
        "transposed": lambda x: x.t().contiguous().t(),
        "strided": lambda x: torch.stack([x, x], -1)[..., 0],
        "negated": lambda x: torch._neg_view(-x),
    }
    start, gradient = torch.randn(2, 5, 7).unbind()
    row_gradient = gradient[:1].expand(5, 7)
    ends = []
    for of_p in ("contiguous", "transposed", "strided"):
        for laid_out in layouts.values():
            for g in (gradient, row_gradient):
                p = torch.nn.Parameter(layouts[of_p](start))
                given = g if g is row_gradient else laid_out(g)
                optimizer = make(case, [p], engine, weight_decay=0.1)

                def closure(p=p, given=given):
                    p.grad = given
                    return torch.tensor(0.0)

                for _ in range(3):
                    optimizer.step(closure)
                ends.append((g is row_gradient, p.detach().clone()))
    for kind in (False, True):
        same = [p for is_row, p in ends if is_row == kind]
        assert all(torch.equal(p, same[0]) for p in same)


@EVERY
@ON_EVERY_ENGINE
@pytest.mark.parametrize("name", ["lr", "momentum", "dampening", "weight_decay"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_hyperparameter_that_is_not_finite_changes_nothing(case, engine, name, value):
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = make(case, [p], engine)
    descend(optimizer, p, 2)
    before, buffer = p.detach().clone(), optimizer.state[p]["momentum_buffer"].clone()
    optimizer.param_groups[0][name] = value
    with pytest.raises(ValueError, match=f"{name} must be a finite number"):
        descend(optimizer, p, 1)
    assert torch.equal(p, before)
    assert torch.equal(optimizer.state[p]["momentum_buffer"], buffer)


@EVERY
def test_momentum_zero_and_back(case):
    """Freezing rules keep the buffer; the others go on writing it."""
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = make(case, [p])

    def closure():
        p.grad = torch.ones_like(p)
        return torch.tensor(0.0)

    optimizer.step(closure)
    held = optimizer.state[p]["momentum_buffer"].item()
    optimizer.param_groups[0]["momentum"] = 0
    optimizer.step(closure)
    now = optimizer.state[p]["momentum_buffer"].item()
    h = case.hyperparameters(0, lambda _: 0.05, lambda _: 0)
    c = sgdm.coefficients(case.row, h, first=False)
    written = c.gain + (0.9 * held if case.row.momentum == "previous" else 0)
    assert now == (held if case.row.momentum_zero == "freeze" else written)


@EVERY
def test_it_asks_for_a_closure_only_where_it_must(case):
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = make(case, [p])
    p.grad = torch.ones(2)
    h = case.hyperparameters(0, lambda _: 0.05, lambda _: 0.9)
    if needs_closure(case.row, h):
        with pytest.raises(RuntimeError, match="closure"):
            optimizer.step()
    else:
        assert optimizer.step() is None
