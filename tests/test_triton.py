"""The engine for CUDA, beside torch's operations on the CPU, bit for bit.

On a machine with a GPU its kernels run there; elsewhere in Triton's interpreter, which takes
milliseconds a block: so there are few and small tensors here, with sizes around a block's.
"""

import copy
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import sgdm
from cases import EVERY_RULE, Case
from driving import buffer_of, make
from sgdm.engines.plan import Part, Rule, StepPlan
from sgdm.running import run

pytest.importorskip("triton", reason="Triton is not installed")

from device_twins import BLOCK, MOST, NEEDS_GPU, QUIET, Twins, assert_bits, drawn, on_device, sgd
from sgdm.engines.triton import kernels, table

pytestmark = [QUIET, pytest.mark.long]
NARROW = (torch.float16, torch.bfloat16, torch.float32)
DTYPES = (*NARROW, torch.float64)
H = sgdm.Hyperparameters(lr=0.1, momentum=0.9, weight_decay=0.3)


# ---- the numbers ----

SETTINGS: tuple[tuple[torch.dtype, dict[str, Any]], ...] = (
    (torch.float32, {}),
    (torch.bfloat16, {"buffer_dtype": torch.float32, "ema_decay": 0.9}),
    (torch.float64, {"weight_decay": 0.1, "maximize": True}),
    (torch.float16, {"weight_decay": 0.1, "ema_decay": 0.3}),
    (torch.float32, {"weight_decay": 0.1, "weight_decay_mode": "lr", "ema_decay": 0.999}),
    (torch.bfloat16, {"weight_decay": 0.1, "maximize": True}),
    (torch.float32, {"buffer_dtype": torch.float16, "weight_decay_mode": "absolute"}),
)
CASES = [(case, *SETTINGS[i % len(SETTINGS)]) for i, case in enumerate(EVERY_RULE)]


@pytest.mark.parametrize(("case", "dtype", "arguments"), CASES, ids=str)
def test_every_rule_has_the_bits_of_torchs_operations(case: Case, dtype, arguments, seed):
    """With a parameter that comes late, and a moving learning rate."""

    def build(params, engine):
        return make(
            case, [{"params": params[:2]}, {"params": params[2:]}], engine=engine, **arguments
        )

    twins = Twins(drawn(dtype, ((), (BLOCK + 1,), (3,))), build)
    for t in range(3):
        for optimizer in (twins.mine, twins.rival):
            optimizer.param_groups[0]["lr"] = 0.1 / (t + 1)
        gradients = drawn(dtype, ((), (BLOCK + 1,), (3,)))
        twins.step([*gradients[:2], gradients[2] if t else None])
    twins.assert_equal()


@pytest.mark.parametrize("p_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("averages", [False, True])
def test_every_combination_of_dtypes_in_one_launch(p_dtype, averages, seed):
    rule = Rule(sgdm.coefficients(sgdm.get_convention("torch"), H, first=False), False, 0.3)
    others = (torch.float64,) if p_dtype == torch.float64 else NARROW
    plans: list[list[Part]] = [[], []]
    launches = [0]
    for g_dtype, b_dtype in product(others, others):
        a_dtype = b_dtype if g_dtype == torch.bfloat16 else others[-1]
        tensors = [torch.randn(7).to(d) for d in (p_dtype, g_dtype, b_dtype, a_dtype)]
        for parts, place in zip(plans, (on_device, Tensor.clone), strict=True):
            p, g, b, a = map(place, tensors)
            parts.append(Part(rule, [p], [g], [b], [a] if averages else None))
    with pytest.MonkeyPatch.context() as patch:
        counted(patch, "step_kernel", launches)
        run(StepPlan(parts=plans[0]), engine="triton")
    run(StepPlan(parts=plans[1]), engine="native")
    for ours, theirs in zip(*plans, strict=True):
        for mine, rival in zip(ours.updates(), theirs.updates(), strict=True):
            for x, y in zip(mine, rival, strict=True):
                assert (x is None) == (y is None)
                if x is not None and y is not None:
                    assert_bits(x, y)
    assert launches == [1]


def counted(patch: pytest.MonkeyPatch, name: str, launches: list[int]) -> None:
    kernel = getattr(kernels, name)

    class Counting:
        def __getitem__(self, grid):
            launches[0] += 1
            return kernel[grid]

    patch.setattr(kernels, name, Counting())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("convention", ["torch", "bengio", "keras"])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_numbers_at_the_ends_of_their_range(decay, convention, maximize, dtype, seed):
    finfo = torch.finfo(dtype)
    ends = [0.0, -0.0, math.inf, -math.inf, math.nan, finfo.max, -finfo.max, finfo.tiny, 1.0]
    ends += [finfo.tiny / 2, -finfo.smallest_normal / 4, 1 + finfo.eps, 3.0]
    p, g = torch.tensor(list(product(ends, ends)), dtype=dtype).unbind(1)
    arguments = {"momentum": 0.9, "convention": convention, "maximize": maximize}
    twins = Twins([p.clone()], sgd(**arguments, weight_decay=decay))
    for _ in range(2):
        twins.step([g.clone()])
        twins.assert_equal()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_rounded_to_nearest_even(dtype):
    """Every number of the kind, and what lies half-way and beside it."""
    every = torch.arange(0, 1 << 16, 13, dtype=torch.int32).to(torch.uint16).view(torch.int16)
    p = every.view(dtype)[: 4 * BLOCK]
    twins = Twins([p], sgd(momentum=0.0, weight_decay=2**-9))
    twins.step([p.flip(0)])
    twins.assert_equal()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_lies_half_way_is_rounded_to_even(dtype):
    apart = torch.finfo(dtype).eps
    p = torch.nn.Parameter(on_device((1 + apart * torch.arange(100)).to(dtype)))
    p.grad = torch.full_like(p, apart)
    sgdm.SGD([p], lr=0.5, maximize=True, engine="triton").step()
    expected = 1 + 2 * apart * ((torch.arange(100) + 1) // 2)
    assert_bits(p, expected.to(dtype))


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_average_is_rounded_as_torchs(dtype, decay, seed):
    twins = Twins([torch.randn(500).to(dtype)], sgd(momentum=0.9, ema_decay=decay))
    for _ in range(3):
        twins.step([torch.randn(500).to(dtype)])
    twins.assert_equal()


def test_a_coefficient_that_underflows_in_float32_still_counts(seed):
    """Which terms there are is decided in double precision, as on the other engines."""
    twins = Twins([torch.tensor([math.inf, -0.0, 1.0])], sgd(weight_decay=1e-60, momentum=0.9))
    for _ in range(2):
        twins.step([torch.tensor([1.0, -0.0, 2.0])])
        twins.assert_equal()


@pytest.mark.parametrize("arguments", [{}, MOST], ids=str)
def test_many_tensors_and_some_empty(arguments, seed):
    shapes = [(i % 7,) for i in range(40)] + [(2 * BLOCK + 3,), (0,)]
    twins = Twins(drawn(shapes=shapes), sgd(**arguments))
    for _ in range(2):
        twins.step(drawn(shapes=shapes))
    twins.assert_equal()


def test_nothing_but_empty_tensors(seed):
    twins = Twins([torch.empty(0)], sgd(momentum=0.9, max_grad_norm=1.0, nonfinite="skip"))
    twins.step([torch.empty(0)])
    twins.assert_equal()
    assert twins.mine.last_grad_norm == 0.0
    assert not twins.mine.last_step_skipped


def test_no_gradient_at_all():
    twins = Twins([torch.ones(2)], sgd(momentum=0.9, max_grad_norm=1.0))
    twins.step([None])
    twins.assert_equal()
    assert twins.mine.last_grad_norm == 0.0


# ---- layouts ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK + 2])
def test_tensors_that_are_not_aligned(size, dtype, seed):
    """Off 16 bytes, each by another amount: no block of theirs is whole, and others' are."""
    room = torch.randn(4, size + 8).to(dtype)
    tensors = [room[i, i + 1 : i + 1 + size] for i in range(4)]
    rule = Rule(sgdm.coefficients(sgdm.get_convention("torch"), H, first=False), False, 0.3)
    ours = on_device(room)
    placed = [ours[i, i + 1 : i + 1 + size] for i in range(4)]
    aligned = [x.clone() for x in (*placed, *tensors)]
    for (p, g, b, a), engine in (
        (placed, "triton"),
        (aligned[:4], "triton"),
        (aligned[4:], "eager"),
        (tensors, "eager"),
    ):
        run(StepPlan(parts=[Part(rule, [p], [g], [b], [a])]), engine=engine)
    for x, y, z, w in zip(placed, aligned[:4], aligned[4:], tensors, strict=True):
        assert_bits(x, w)
        assert_bits(y, w)
        assert_bits(z, w)
    assert_bits(ours, room)  # nor was anything beside them written


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.clone(),
    "permuted": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "with gaps": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:, :1, :1].expand(x.shape),
}


@pytest.mark.parametrize("of_p", ["contiguous", "permuted"])
@pytest.mark.parametrize("of_g", LAYOUTS)
def test_a_gradient_may_lie_in_any_way(of_p, of_g, seed):
    start = torch.randn(3, 4, 5)
    p = torch.nn.Parameter(LAYOUTS[of_p](on_device(start)))
    q = torch.nn.Parameter(start.clone())
    mine = sgdm.SGD([p], lr=0.1, momentum=0.9, engine="triton")
    rival = sgdm.SGD([q], lr=0.1, momentum=0.9, engine="eager")
    for _ in range(3):
        g = torch.randn(3, 4, 5)
        p.grad = LAYOUTS[of_g](on_device(g))
        q.grad = LAYOUTS[of_g](g).contiguous()
        kept = p.grad.clone()
        mine.step()
        rival.step()
        assert torch.equal(p.grad, kept)
    assert_bits(p, q)
    assert_bits(buffer_of(mine, p), buffer_of(rival, q))
    assert buffer_of(mine, p).stride() == p.stride()


# ---- what is remembered between steps ----


def replace_data(optimizer, params) -> None:
    params[1].data = 2 * params[1].data


def transpose_data(optimizer, params) -> None:
    params[1].data = params[1].data.t().contiguous().t()
    optimizer.state.pop(params[1])


def swap_data(optimizer, params) -> None:
    params[0].data, params[2].data = params[2].data, params[0].data


def replace_buffer(optimizer, params) -> None:
    optimizer.state[params[1]]["momentum_buffer"] = torch.full_like(params[1], 0.3).detach()


def narrow_buffer(optimizer, params) -> None:
    held = optimizer.state[params[1]]
    held["momentum_buffer"] = held["momentum_buffer"].bfloat16()


def change_rule(optimizer, params) -> None:
    optimizer.param_groups[0].update(lr=0.03, momentum=0.5, nesterov=True, weight_decay=0.01)


def add_group(optimizer, params) -> None:
    start = torch.linspace(-1, 1, 9).to(params[0].device)
    params.append(torch.nn.Parameter(start))
    optimizer.add_param_group({"params": params[-1:], "lr": 0.01})


CHANGES: list[Callable[[sgdm.SGD, list], Any]] = [
    replace_data,
    transpose_data,
    swap_data,
    replace_buffer,
    narrow_buffer,
    change_rule,
    add_group,
    lambda optimizer, params: optimizer.state.clear(),
    lambda optimizer, params: optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict())),
    lambda optimizer, params: optimizer.param_groups[0].update(momentum=0.0),
    lambda optimizer, params: optimizer.param_groups[0]["params"].pop(0),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_between_steps_is_seen(change, seed):
    shapes = ((5,), (3, 4), (5,))
    twins = Twins(drawn(shapes=shapes), sgd(momentum=0.9))
    for t in range(4):
        twins.step(drawn(shapes=[tuple(p.shape) for p in twins.ours]))
        if t == 1:
            change(twins.mine, twins.ours)
            change(twins.rival, twins.theirs)
    twins.assert_equal()


def uploads(patch: pytest.MonkeyPatch) -> list[str]:
    """What is written to the device from here on."""
    written: list[str] = []
    before = torch.frombuffer

    def noted(data, dtype):
        written.append(str(dtype))
        return before(data, dtype=dtype)

    patch.setattr(torch, "frombuffer", noted)
    return written


def test_only_what_has_changed_is_uploaded(monkeypatch, seed):
    p = torch.nn.Parameter(on_device(torch.randn(5)))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, engine="triton")
    p.grad = on_device(torch.randn(5))
    optimizer.step()
    optimizer.step()
    written = uploads(monkeypatch)
    optimizer.step()
    assert written == []
    p.grad = p.grad.clone()
    optimizer.step()
    assert written == ["torch.int64"]
    optimizer.param_groups[0]["lr"] = 0.05
    optimizer.step()
    assert written == ["torch.int64", "torch.float64"]


def test_a_moving_learning_rate_compiles_nothing_anew(monkeypatch, seed):
    """What the kernel is compiled for is the same at every step, and all else is in memory."""
    compiled_for: set[Any] = set()
    kernel = kernels.step_kernel

    class Noting:
        def __getitem__(self, grid):
            def launch(*args, **constants):
                kinds = [None if x is None else getattr(x, "dtype", type(x)) for x in args]
                compiled_for.add((tuple(kinds), str(sorted(constants.items()))))
                return kernel[grid](*args, **constants)

            return launch

    monkeypatch.setattr(kernels, "step_kernel", Noting())
    twins = Twins(drawn(shapes=((3,), (4,))), sgd(momentum=0.9, weight_decay=0.1))
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(x, 0.7) for x in (twins.mine, twins.rival)]
    for t in range(5):
        twins.step(drawn(shapes=((3,), (4,))))
        for scheduler in schedulers:
            scheduler.step()
        twins.mine.param_groups[0]["momentum"] = twins.rival.param_groups[0]["momentum"] = 0.1 * t
    twins.assert_equal()
    # No buffer is touched where momentum is 0, here in the second step: another combination.
    assert len(compiled_for) == 2


@NEEDS_GPU
def test_the_cache_of_compiled_kernels_does_not_grow(seed):
    p = torch.nn.Parameter(on_device(torch.randn(5)))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, engine="triton")
    p.grad = torch.ones_like(p)
    cached = []
    for t in range(5):
        optimizer.param_groups[0]["lr"] = 0.1 / (t + 1)
        optimizer.step()
        kernel: Any = kernels.step_kernel
        cached.append([len(cache[0]) for cache in kernel.device_caches.values()])
    assert cached[1] == cached[4]  # the first step makes the buffer, by the same kernel


def test_tables_of_structures_that_are_gone_are_dropped(monkeypatch):
    monkeypatch.setattr(table, "_REMEMBERED", 2)
    p = torch.nn.Parameter(on_device(torch.ones(5)))
    optimizer = sgdm.SGD([p], lr=0.1, engine="triton")
    for size in (2, 3, 4, 2):
        p.data = on_device(torch.ones(size))
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert torch.equal(p.cpu(), torch.full((size,), 0.9))
    assert len(optimizer._memory.on_device["triton"]._known) == 2
