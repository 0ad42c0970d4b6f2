"""What processes decide together: the norm, an overflow, and that they are one run."""

import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import sgdm
from sgdm.errors import InvalidUseError, InvalidValueError, SgdmError
from sharding import Layout, full, held, laid_out, layout_of, same_bits

ROWS, COLUMNS, REPLICATE = Shard(0), Shard(1), Replicate()
COLLECTIVES = ("all_reduce", "all_gather_object", "broadcast", "all_gather")
ENGINES = ("native", "eager")


@contextmanager
def counted():
    """Count what the optimizer sends, by the name of the collective."""
    calls: list[str] = []
    own = {name: getattr(dist, name) for name in COLLECTIVES}

    def counting(name: str) -> Callable[..., Any]:
        def call(*args, **kwargs):
            calls.append(name)
            return own[name](*args, **kwargs)

        return call

    try:
        for name in own:
            setattr(dist, name, counting(name))
        yield calls
    finally:
        for name, function in own.items():
            setattr(dist, name, function)


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def parameter(layout: Layout | None, start: Tensor, gradient: Tensor) -> nn.Parameter:
    p = nn.Parameter(laid_out(start, layout))
    p.grad = laid_out(gradient, layout)
    return p


def parameters(layouts: Sequence[Layout | None]) -> list[nn.Parameter]:
    return [
        parameter(layout, values(5, 3, seed=i), values(5, 3, seed=100 + i))
        for i, layout in enumerate(layouts)
    ]


def outcome(optimizer: torch.optim.Optimizer) -> str:
    """What a step came to."""
    try:
        optimizer.step()
    except SgdmError as error:
        return f"{type(error).__name__}: {error}"
    return "skipped" if getattr(optimizer, "last_step_skipped", False) else "stepped"


def line() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


# ---- the norm ----


def layouts_of(kind: str) -> Sequence[Layout | None]:
    if dist.get_world_size() < 4:
        mesh = line()
        rows, columns, replica = (Layout(mesh, (x,)) for x in (ROWS, COLUMNS, REPLICATE))
        other = Layout(DeviceMesh("cpu", list(range(mesh.size()))[::-1]), (ROWS,))
        return {
            "shards": [rows, columns, rows],
            "replicas among them": [rows, replica, columns],
            "plain ones among them": [None, rows, replica, None],
            "two meshes": [rows, other, replica, other],
        }[kind]
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    return {
        "replicas of shards": [Layout(mesh, (REPLICATE, ROWS)), Layout(mesh, (ROWS, REPLICATE))],
        "all of it": [
            Layout(mesh, (REPLICATE, ROWS)),
            Layout(mesh, (ROWS, COLUMNS)),
            None,
            Layout(mesh, (REPLICATE, REPLICATE)),
        ],
        "parts of a mesh": [Layout(mesh["tensor"], (ROWS,)), Layout(mesh["data"], (REPLICATE,))],
    }[kind]


MESSAGES = {  # that one norm takes: one a mesh, and one a process group of a part of the world
    "shards": 1,
    "replicas among them": 1,
    "plain ones among them": 1,
    "two meshes": 2,
    "replicas of shards": 1,
    "all of it": 1,
    "parts of a mesh": 2,
}


def norms(kinds: list[str]) -> list[tuple[str, str, float, float, int, bool]]:
    """For each kind and engine: the norm, that of one process, messages, and whether they agree."""
    found: list[tuple[str, str, float, float, int, bool]] = []
    for kind in kinds:
        for engine in ENGINES:
            layouts = layouts_of(kind)
            mine, theirs = (
                sgdm.SGD(parameters(own), 0.1, 0.9, max_grad_norm=2.0, engine=engine)
                for own in (layouts, [None] * len(layouts))
            )
            for optimizer in (mine, theirs):
                optimizer.step()
            with counted() as calls:
                mine.step()
            theirs.step()
            pairs = zip(*(x.param_groups[0]["params"] for x in (mine, theirs)), strict=True)
            gaps = [held(p) - held(laid_out(q, layout_of(p))) for p, q in pairs]
            apart = max((gap.abs().max().item() for gap in gaps if gap.numel()), default=0.0)
            assert mine.last_grad_norm is not None
            assert theirs.last_grad_norm is not None
            found.append(
                (kind, engine, mine.last_grad_norm, theirs.last_grad_norm, len(calls), apart < 1e-6)
            )
    return found


def check_norms(answers: list[Any]) -> None:
    assert all(answer == answers[0] for answer in answers)
    for kind, _, norm, expected, messages, agree in answers[0]:
        assert norm == pytest.approx(expected, rel=1e-6), kind
        assert messages == MESSAGES[kind], kind
        assert agree, kind


def test_the_norm_is_that_of_the_whole_on_every_process(world):
    kinds = list(MESSAGES)
    check_norms(world.run(2, norms, kinds[:4]))
    check_norms(world.run(3, norms, kinds[:4]))
    check_norms(world.run(4, norms, kinds[4:]))


def norms_without_gradients_on_one_process() -> list[float | None]:
    """It takes part in what the others measure, and at the first step in what they compare."""
    p = parameter(Layout(line(), (ROWS,)), torch.ones(4), torch.full((4,), 2.0))
    found: list[float | None] = []
    for engine in ENGINES:
        optimizer = sgdm.SGD([p], max_grad_norm=1.0, engine=engine)
        gradient = p.grad
        if dist.get_rank() == 1:
            p.grad = None
        for _ in range(2):
            optimizer.step()
            found.append(optimizer.last_grad_norm)
        p.grad = gradient
    return found


def test_a_process_without_gradients_takes_part(world):
    norm = pytest.approx(math.sqrt(8))
    assert world.run(2, norms_without_gradients_on_one_process) == [[norm] * 4] * 2


def recorded_norm() -> list[float | None]:
    """Of a step that autograd records, which dispatches through DTensor."""
    found: list[float | None] = []
    for layout in (Layout(line(), (ROWS,)), None):
        p = parameter(layout, torch.ones(4), torch.zeros(4)).clone()
        optimizer = sgdm.SGD([p], lr=1.0, max_grad_norm=1.0, differentiable=True)
        p.grad = laid_out(torch.full((4,), 2.0), layout)
        optimizer.step()
        found += [optimizer.last_grad_norm, full(p)[0].item()]
    return found


def test_the_norm_of_a_recorded_step_is_that_of_the_whole(world):
    expected = [4.0, pytest.approx(0.5)] * 2
    assert world.run(2, recorded_norm) == [expected] * 2


# ---- overflows ----


def overflow(nonfinite: Any, engine: str, bad: float) -> tuple[str, float | None, bool]:
    """What a step comes to where only the last rank's shard is not finite, and what it changed."""
    rows = Layout(line(), (ROWS,))
    params = parameters([rows, None, rows])
    names = ["first", "second", "third"]
    optimizer = sgdm.SGD(
        list(zip(names, params, strict=True)), 0.1, 0.9, nonfinite=nonfinite, engine=engine
    )
    optimizer.step()
    shards = [held(p) for p in params]
    before = [x.clone() for x in shards]
    buffers = [s["momentum_buffer"] for s in optimizer.state.values()]
    kept = [full(b).clone() for b in buffers]
    assert params[2].grad is not None
    gradient = held(params[2].grad)
    if dist.get_rank() == dist.get_world_size() - 1:
        gradient[0, 0] = bad
    came_to = outcome(optimizer)
    unchanged = all(map(torch.equal, shards, before)) and all(
        torch.equal(full(b), k) for b, k in zip(buffers, kept, strict=True)
    )
    return came_to, optimizer.last_grad_norm, unchanged


def overflows() -> list[Any]:
    return [
        overflow(nonfinite, engine, bad)
        for nonfinite in ("skip", "raise", "propagate")
        for engine in ENGINES
        for bad in (math.nan, math.inf)
    ]


def test_an_overflow_on_one_process_is_one_on_all(world):
    for size in (2, 3):
        for rank, answers in enumerate(world.run(size, overflows)):
            skips, raises, goes_on = answers[:4], answers[4:8], answers[8:]
            held_here = rank == size - 1
            which = " 'third'" if held_here else ""
            where = "among (5, 3) elements" if held_here else "of another process"
            text = (
                f"InvalidValueError: the gradient of parameter{which} must be finite, as "
                f"nonfinite='raise' asks, got 'NaN or infinity {where}'; nothing was changed; "
                "lower lr, set max_grad_norm, or use nonfinite='skip'"
            )
            for (came_to, norm, unchanged), expected in (
                *((x, "skipped") for x in skips),
                *((x, text) for x in raises),
            ):
                assert (came_to, unchanged) == (expected, True)
                assert norm is not None
                assert not math.isfinite(norm)
            assert all(x[0] == "stepped" and not x[2] for x in goes_on)


def skips_of_what_is_not_on_all(kind: str) -> list[bool]:
    """Whether a step is skipped for the last rank's NaN, in what some or none share with it."""
    layouts: list[Layout | None]
    if kind == "plain":
        layouts = [Layout(line(), (ROWS,)), None]
    else:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        layouts = [Layout(mesh, (REPLICATE, ROWS)), Layout(mesh["tensor"], (ROWS,))]
    skipped: list[bool] = []
    for order in (layouts, layouts[::-1]):
        for engine in ENGINES:
            # Of a shape of its own: torch caches meshes by it, also from a run that has ended.
            params = [parameter(layout, values(7), values(7)) for layout in order]
            gradient = params[order.index(layouts[1])].grad
            assert gradient is not None
            if dist.get_rank() == dist.get_world_size() - 1:
                held(gradient)[0] = math.nan
            optimizer = sgdm.SGD(params, 0.1, nonfinite="skip", engine=engine)
            optimizer.step()
            skipped.append(optimizer.last_step_skipped)
    return skipped


def test_an_overflow_in_what_not_all_share_is_one_on_all(world):
    assert world.run(2, skips_of_what_is_not_on_all, "plain") == [[True] * 4] * 2
    assert world.run(4, skips_of_what_is_not_on_all, "part") == [[True] * 4] * 4


def decisions_of_a_scaler() -> list[Any]:
    """What ranks do where GradScaler has found an overflow on one of them."""
    found: list[Any] = []
    for overflowing in (0, 1, None):
        p = parameter(Layout(line(), (ROWS,)), torch.ones(4), torch.full((4,), 8.0))
        optimizer = sgdm.SGD([p], lr=0.5, fused=True)
        optimizer.grad_scale = torch.tensor(16.0)  # pyright: ignore[reportAttributeAccessIssue]
        here = overflowing == dist.get_rank()
        optimizer.found_inf = torch.tensor(float(here))  # pyright: ignore[reportAttributeAccessIssue]
        found.append((outcome(optimizer), full(p).tolist()))
    return found


def scaled_training(fused: bool) -> tuple[list[list[float]], float]:
    """Two steps with GradScaler, of which the first overflows in one process's shard."""
    torch.manual_seed(0)
    model = nn.Linear(3, 4, bias=False)
    fully_shard(model)
    optimizer = sgdm.SGD(model.parameters(), lr=0.25, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    weights = [full(model.weight).clone()]
    for factor in (math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(2, 3)).sum()).backward()
        assert model.weight.grad is not None
        if dist.get_rank() == 1:
            held(model.weight.grad).mul_(factor)
        scaler.step(optimizer)
        scaler.update()
        weights.append(full(model.weight).clone())
    moves = [b - a for a, b in pairwise(weights)]
    return [[move.min().item(), move.max().item()] for move in moves], scaler.get_scale()


def scaled_trainings() -> list[Any]:
    return [scaled_training(fused) for fused in (True, False)]


def test_a_scaler_on_any_process_decides_for_all(world):
    expected = [("skipped", [1.0] * 4), ("skipped", [1.0] * 4), ("stepped", [0.75] * 4)]
    assert world.run(2, decisions_of_a_scaler) == [expected] * 2
    for (first, second), scale in (
        x for answers in world.run(2, scaled_trainings) for x in answers
    ):
        assert first == [0.0, 0.0]
        assert second == pytest.approx([-0.5, -0.5], abs=1e-6)
        assert scale == 2.0


# ---- one run ----


def build(what: str) -> sgdm.SGD:
    """An optimizer that is another one on the last rank."""
    rows = Layout(line(), (ROWS,))
    params = [
        ("weight", parameter(rows, values(5, 3), values(5, 3))),
        ("bias", parameter(rows, values(4), values(4))),
        ("scale", parameter(None, values(2), values(2))),
    ]
    arguments: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}
    if dist.get_rank() == dist.get_world_size() - 1:
        if what == "order":
            params[:2] = params[1::-1]
        elif what == "number":
            del params[1]
        elif what == "layout":
            params[0] = (
                "weight",
                parameter(Layout(line(), (COLUMNS,)), values(5, 3), values(5, 3)),
            )
        elif what == "dtype":
            params[1] = ("bias", parameter(rows, values(4).double(), values(4).double()))
        elif what != "nothing":
            arguments |= {
                "lr": {"lr": 0.2},
                "no lr": {"lr": 0.0},
                "max_grad_norm": {"max_grad_norm": 1.0},
            }[what]
    return sgdm.SGD(params, **arguments)


DIFFER = {
    "lr": ("group 0: lr=0.1", "group 0: lr=0.2"),
    "no lr": ("group 0: lr=0.1", "group 0: lr=0.0"),
    "max_grad_norm": ("max_grad_norm=None", "max_grad_norm=1.0"),
    "order": (
        "group 0, parameter weight: (5, 3), torch.float32, (Shard(dim=0),)",
        "group 0, parameter bias: (4,), torch.float32, (Shard(dim=0),)",
    ),
    "number": (
        "group 0, parameter bias: (4,), torch.float32, (Shard(dim=0),)",
        "group 0: 1 parameters",
    ),
    "layout": (
        "group 0, parameter weight: (5, 3), torch.float32, (Shard(dim=0),)",
        "group 0, parameter weight: (5, 3), torch.float32, (Shard(dim=1),)",
    ),
    "dtype": (
        "group 0, parameter bias: (4,), torch.float32, (Shard(dim=0),)",
        "group 0, parameter bias: (4,), torch.float64, (Shard(dim=0),)",
    ),
}


def first_steps() -> dict[str, tuple[str, str, bool]]:
    """What a first step, and check_ranks, come to on each kind of difference."""
    found: dict[str, tuple[str, str, bool]] = {}
    for what in (*DIFFER, "nothing"):
        optimizer = build(what)
        params = optimizer.param_groups[0]["params"]
        before = [full(p).clone() for p in params] if what == "nothing" else None
        asked = "nothing"
        try:
            sgdm.check_ranks(optimizer)
        except InvalidValueError as error:
            asked = f"InvalidValueError: {error}"
        found[what] = outcome(optimizer), asked, before is None and not optimizer.state
    return found


def step_with_a_group_of_some() -> tuple[str, float | None]:
    """What a step comes to where half of the processes have parameters of their own."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    common = parameter(Layout(mesh, (REPLICATE, ROWS)), values(6), torch.ones(6))
    groups: list[dict[str, Any]] = [{"params": [common]}]
    if dist.get_rank() < 2:
        layout = Layout(mesh["tensor"], (ROWS,))
        groups.append({"params": [parameter(layout, values(6), torch.ones(6))], "lr": 0.3})
    optimizer = sgdm.SGD(groups, lr=0.1)
    return outcome(optimizer), optimizer.param_groups[-1]["lr"]


def test_what_some_processes_have_alone_is_compared_among_them(world):
    steps = [("stepped", 0.3)] * 2 + [("stepped", 0.1)] * 2
    assert world.run(4, step_with_a_group_of_some) == steps


def messages_by_step() -> list[list[str]]:
    """What five steps send, and one check."""
    found: list[list[str]] = []
    optimizer = build("nothing")
    for _ in range(3):
        with counted() as calls:
            optimizer.step()
        found.append(calls)
    optimizer.zero_grad()
    for _ in range(2):
        with counted() as calls:
            optimizer.step()
        found.append(calls)
    with counted() as calls:
        sgdm.check_ranks(optimizer)
    return [*found, calls]


def copies_that_differ(names: bool) -> str:
    """As under DistributedDataParallel: nothing but check_ranks notices."""
    rank = dist.get_rank()
    params = [("a", nn.Parameter(torch.ones(2))), ("b", nn.Parameter(torch.ones(2)))]
    if rank == 2:
        params.reverse()
    optimizer = sgdm.SGD(params if names else [p for _, p in params], lr=torch.tensor(0.1))
    plain = torch.optim.SGD([params[0][1]], lr=0.5 if rank == 1 and not names else 0.25)
    found: list[str] = []
    for checked in (optimizer, plain):
        try:
            sgdm.check_ranks(checked)
        except InvalidValueError as error:
            found.append(str(error))
    return " and ".join(found)


def the_message(first: str, rank: int, other: str) -> str:
    return (
        f"the optimizer must be the same on all processes, as on rank 0: {first}, got 'on rank "
        f"{rank}: {other}'; build it from the same arguments everywhere"
    )


def test_another_optimizer_on_one_rank_is_named_on_all_before_the_first_step(world):
    for size in (2, 3):
        for answers in world.run(size, first_steps):
            assert answers.pop("nothing")[:2] == ("stepped", "nothing")
            for what, (first, other) in DIFFER.items():
                text = f"InvalidValueError: {the_message(first, size - 1, other)}"
                seen, asked, unchanged = answers[what]
                assert (seen, unchanged) == (text, True), what
                if what != "number":  # of which check_ranks sees the plain one too
                    assert asked == text


def test_what_is_the_same_is_looked_at_once(world):
    once = [["all_reduce"], [], [], [], [], ["all_reduce"]]
    assert world.run(2, messages_by_step) == [once] * 2


def test_check_ranks_takes_any_optimizer_and_sees_names(world):
    a = "group 0, parameter a: (2,), torch.float32"
    named = the_message(a, 2, a.replace("a:", "b:"))
    other_lr = the_message("group 0: lr=0.25", 1, "group 0: lr=0.5")
    assert world.run(3, copies_that_differ, True) == [named] * 3
    assert world.run(3, copies_that_differ, False) == [other_lr] * 3


def test_check_ranks_is_for_runs_of_several_processes():
    with pytest.raises(InvalidUseError) as caught:
        sgdm.check_ranks(sgdm.SGD([nn.Parameter(torch.ones(1))]))
    assert str(caught.value) == (
        "check_ranks() must be called in a run of several processes, got none; call "
        "torch.distributed.init_process_group first"
    )


# ---- an optimizer of parameters that are gone ----


def built_too_early(how: str) -> str:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = sgdm.SGD(model.parameters(), lr=0.1)
    if how == "stepped":
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    if how in ("whole", "stepped"):
        fully_shard(model)
    elif how == "part":
        fully_shard(model[0])
    else:
        plan = ColwiseParallel(output_layouts=REPLICATE)
        parallelize_module(model, line(), {"0": plan})
    model(torch.ones(2, 3)).sum().backward()
    return outcome(optimizer)


class Unfinished(nn.Module):
    def __init__(self) -> None:  # without that of nn.Module
        pass


def false_alarms() -> list[str]:
    """Steps of optimizers whose parameters have no gradient and are none of a sharded module's."""
    model, unfinished = nn.Linear(3, 4), Unfinished()
    fully_shard(model)
    unused, frozen = nn.Linear(3, 4), nn.Linear(3, 4)
    frozen.requires_grad_(False)
    found: list[str] = []
    discriminator = sgdm.SGD(unused.parameters(), lr=0.1)
    found.append(outcome(discriminator))
    parts = nn.ModuleList([model, unused, frozen])
    optimizer = sgdm.SGD(parts.parameters(), lr=0.1)
    model(torch.ones(2, 3)).sum().backward()
    found += [outcome(optimizer), outcome(discriminator)]
    unused(torch.ones(2, 3)).sum().backward()
    found.append(outcome(discriminator))
    alone, idle = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(9))
    of_none = sgdm.SGD([alone, idle], lr=0.1)
    alone.grad = torch.ones(4, 3)
    found.append(outcome(of_none))

    def closure() -> float:
        alone.grad = torch.ones(4, 3)
        return 0.0

    free = nn.Parameter(torch.ones(4))  # of the shape of a bias, and in no module
    found.append(outcome(sgdm.SGD([*model.parameters(), free], lr=0.1)))
    alone.grad = None
    by_closure = sgdm.SGD([alone], lr=0.1)
    try:
        by_closure.step(closure)
    except InvalidUseError as error:
        found.append(str(error))
    del unfinished  # it was there until here
    return found


def alarms() -> list[str]:
    return [built_too_early(how) for how in ("whole", "stepped", "part", "tensor")]


def test_parameters_that_were_replaced_are_refused(world):
    for answers in world.run(2, alarms):
        for answer, count in zip(answers, (4, 4, 2, 2), strict=True):
            assert answer == (
                "InvalidUseError: params must be those of the model as it is trained, got "
                f"{count} that are in no module any more, the first of shape (4, 3): the model was "
                "sharded after this optimizer was built, and now has DTensors in their place; "
                "build the optimizer after fully_shard or parallelize_module"
            )
    assert world.run(2, false_alarms) == [["stepped"] * 6] * 2


# ---- what has changed on the way ----


def still_steps_of_one_process() -> list[str]:
    """One process has had no gradient when lr falls to 0, and so no state."""
    p = parameter(Layout(line(), (ROWS,)), values(5, 3), values(5, 3, seed=1))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9)
    gradient = p.grad
    if dist.get_rank() == 0:
        p.grad = None
    found = [outcome(optimizer)]
    p.grad = gradient
    optimizer.param_groups[0]["lr"] = 0.0
    return [*found, outcome(optimizer), str(len(optimizer.state))]


def exchanged() -> list[float]:
    """The norm before and after the parameters are exchanged for DTensors of the same."""
    (p,) = parameters([None])
    optimizer = sgdm.SGD([p], lr=0.0, max_grad_norm=1e9)
    optimizer.step()
    before = optimizer.last_grad_norm
    optimizer.param_groups[0]["params"] = parameters([Layout(line(), (ROWS,))])
    optimizer.step()
    assert before is not None
    assert optimizer.last_grad_norm is not None
    return [before, optimizer.last_grad_norm]


def taken_over() -> bool:
    """From torch's, whose buffer is laid out as its first gradient was."""
    mesh = line()
    start, gradient = values(5, 3), values(5, 3, seed=1)
    ends: list[Tensor] = []
    for layout in (Layout(mesh, (ROWS,)), None):
        p = parameter(layout, start, gradient)
        if layout is not None:
            p.grad = laid_out(gradient, Layout(mesh, (REPLICATE,)))
        old = torch.optim.SGD([p], lr=0.1, momentum=0.9)
        old.step()
        new = sgdm.SGD.from_torch(old)
        p.grad = laid_out(gradient, layout)
        new.step()
        ends.append(p)
    return same_bits(ends[0], ends[1].detach())


def on_the_way() -> tuple[list[str], list[float], bool]:
    return still_steps_of_one_process(), exchanged(), taken_over()


def test_what_changes_on_the_way_is_noticed(world):
    for rank, (still, norms, is_same) in enumerate(world.run(2, on_the_way)):
        assert still == ["stepped", "stepped", "1"], rank
        assert norms[0] == pytest.approx(norms[1], rel=1e-6)
        assert is_same
