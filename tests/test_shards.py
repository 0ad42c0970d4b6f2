"""DTensors are stepped by their shards: the bits of one process, on every engine."""

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.utils._python_dispatch import TorchDispatchMode

import sgdm
from cases import BENGIO, CAFFE_NESTEROV, EVERY_RULE, TORCH, TORCH_DAMPENED, Case
from driving import make
from sgdm.errors import InvalidValueError
from sgdm.shards import gradient_shard
from sharding import Layout, full, held, laid_out, layout_of, same_bits

STEPS = 5
REPLICATE, ROWS, COLUMNS = Replicate(), Shard(0), Shard(1)
Start = tuple[Tensor, Layout | None]  # a parameter: its values, and where they are


class Setting(NamedTuple):
    """What a rule is run with."""

    engine: str
    dtype: torch.dtype
    arguments: dict[str, Any]


SETTINGS = (
    Setting("native", torch.float32, {}),
    Setting("native", torch.bfloat16, {"buffer_dtype": torch.float32, "ema_decay": 0.9}),
    Setting("eager", torch.float32, {"weight_decay": 0.1, "maximize": True}),
    Setting("native", torch.float64, {"weight_decay": 0.1, "weight_decay_mode": "lr/lr0"}),
    Setting("auto", torch.bfloat16, {"weight_decay": 0.1}),
    Setting("eager", torch.bfloat16, {"ema_decay": 0.9, "weight_decay_mode": "absolute"}),
    Setting("native", torch.float32, {"buffer_dtype": torch.bfloat16, "ema_decay": 0.5}),
    Setting("eager", torch.float64, {"weight_decay": 0.1, "weight_decay_mode": "lr^2/lr0"}),
    Setting("native", torch.bfloat16, {"maximize": True, "weight_decay": 0.1}),
    Setting("auto", torch.float32, {"ema_decay": 0.9, "weight_decay_mode": "lr"}),
    Setting("eager", torch.float32, {"buffer_dtype": torch.float64}),
)
CORRECTED = Setting("native", torch.float32, {"correct_momentum": True})


def groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params[::2]}, {"params": params[1::2], "lr": 0.02, "momentum": 0.5}]


def step_both(mine: sgdm.SGD, theirs: sgdm.SGD, gradients: list[Tensor | None]) -> None:
    """One step of each, with the same gradients; the learning rate changes."""
    for optimizer in (mine, theirs):
        params = [p for group in optimizer.param_groups for p in group["params"]]

        def closure(params=params):
            for p, g in zip(params, gradients, strict=True):
                p.grad = None if g is None else laid_out(g.to(p.dtype), layout_of(p))
            return 0.0

        optimizer.step(closure)
        for group in optimizer.param_groups:
            group["lr"] *= 0.7


def drawn(params: list[nn.Parameter], t: int) -> list[Tensor | None]:
    """The last one's gradient comes late, and the first has none in between."""
    draw = torch.Generator().manual_seed(t)
    missing = {0: len(params) - 1, 1: len(params) - 1, 3: 0}
    return [
        None if missing.get(t) == i else torch.randn(p.shape, generator=draw)
        for i, p in enumerate(params)
    ]


def differences(starts: list[Start], case: Case, setting: Setting) -> list[str]:
    """Where a run of DTensors differs from one of plain tensors."""
    engine, dtype, arguments = setting
    mine = [nn.Parameter(laid_out(x.to(dtype), layout)) for x, layout in starts]
    theirs = [nn.Parameter(x.to(dtype, copy=True)) for x, _ in starts]
    a, b = (make(case, groups(params), engine=engine, **arguments) for params in (mine, theirs))
    for t in range(STEPS):
        step_both(a, b, drawn([p for g in b.param_groups for p in g["params"]], t))
    return [f"{case} {setting} {where}" for where in states_that_differ(a, b)]


def states_that_differ(mine: sgdm.SGD, theirs: sgdm.SGD) -> list[str]:
    found: list[str] = []
    for ours, own in zip(mine.param_groups, theirs.param_groups, strict=True):
        found += [key for key in own if key != "params" and ours[key] != own[key]]
        for i, (p, q) in enumerate(zip(ours["params"], own["params"], strict=True)):
            if not same_bits(p, q):
                found.append(f"parameter {i}, {layout_of(p)}")
            a, b = mine.state.get(p, {}), theirs.state.get(q, {})
            if a.keys() != b.keys():
                found.append(f"{a.keys()}, not {b.keys()}")
            for key in a.keys() & b.keys():
                if not isinstance(b[key], Tensor):
                    same = a[key] == b[key]
                else:
                    same = layout_of(a[key]) == layout_of(p) and same_bits(a[key], b[key])
                if not same:
                    found.append(f"{key} of {i}, {layout_of(p)}")
    return found


def values(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def on_a_line(size: int) -> list[Start]:
    """Tensor parallel, uneven and empty shards, and plain tensors among them."""
    mesh = init_device_mesh("cpu", (size,))
    return [
        (values(5, 3), Layout(mesh, (ROWS,))),
        (values(2, 2), None),
        (values(4, 7), Layout(mesh, (COLUMNS,))),
        (values(1), Layout(mesh, (ROWS,))),
        (values(3, 2), Layout(mesh, (REPLICATE,))),
        (values(), Layout(mesh, (REPLICATE,))),
        (values(33), Layout(mesh, (ROWS,))),
    ]


def on_a_square() -> list[Start]:
    """HSDP, FSDP over tensor parallel (a strided shard), and meshes of two of the four."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    linear = nn.Linear(3, 9)
    parallelize_module(linear, mesh["tensor"], ColwiseParallel())
    fully_shard(linear, mesh=mesh["data"])
    strided = layout_of(linear.weight)
    assert strided is not None
    assert "Strided" in repr(strided.placements)
    return [
        (values(5, 3), Layout(mesh, (REPLICATE, ROWS))),
        (values(9, 3), strided),
        (values(5, 7), Layout(mesh, (ROWS, COLUMNS))),
        (values(3), None),
        (values(5), Layout(mesh["tensor"], (ROWS,))),
        (values(3, 3), Layout(mesh, (ROWS, ROWS))),
        (values(4, 3), Layout(mesh["data"], (COLUMNS,))),
        (values(2, 3), Layout(mesh, (REPLICATE, REPLICATE))),
    ]


def differences_of_all_rules(size: int) -> tuple[list[str], int]:
    starts = on_a_square() if size == 4 else on_a_line(size)
    found: list[str] = []
    run = 0
    for i, case in enumerate(EVERY_RULE):
        own = [SETTINGS[(i + 4 * size) % len(SETTINGS)]]
        if case.row.lr == "inside" and not case.options:
            own.append(CORRECTED)
        for setting in own:
            try:
                make(case, [nn.Parameter(torch.zeros(1))], **setting.arguments)
            except InvalidValueError:
                continue  # the convention has no place for it
            run += 1
            found += differences(starts, case, setting)
    return found, run


@pytest.mark.parametrize("size", [4, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 3))])
def test_every_rule_has_the_bits_of_one_process(world, size):
    for found, run in world.run(size, differences_of_all_rules, size):
        assert found == []
        assert run >= len(EVERY_RULE)


# ---- networks that autograd goes through ----


class Dispatches(TorchDispatchMode):
    """Counts what is dispatched through DTensor."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(t, DTensor) for t in types):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 2))


def sharded(how: str) -> nn.Sequential:
    """The network, over all processes."""
    model, size = network(), dist.get_world_size()
    first, _, _, last = model
    if how == "fsdp":
        fully_shard(first)
        fully_shard(model)
        return model
    if how == "tensor":
        mesh = init_device_mesh("cpu", (size,))
        parallelize_module(first, mesh, ColwiseParallel(output_layouts=REPLICATE))
        parallelize_module(last, mesh, RowwiseParallel(input_layouts=REPLICATE))
        return model
    mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("data", "tensor"))
    if how == "hsdp":
        fully_shard(model, mesh=mesh)
        return model
    plan = ColwiseParallel(output_layouts=REPLICATE)
    parallelize_module(first, mesh["tensor"], plan)
    fully_shard(first, mesh=mesh["data"])
    return model  # only its first layer


def training_differences(how: str, engine: str, arguments: dict[str, Any]) -> list[str]:
    """Train a sharded network and one copy with the gradients of the former."""
    model, copy = sharded(how), network()
    found: list[str] = []
    mine = sgdm.SGD(model.parameters(), lr=0.1, engine=engine, **arguments)
    theirs = sgdm.SGD(copy.parameters(), lr=0.1, engine=engine, **arguments)
    layouts = [layout_of(p) for p in model.parameters()]
    assert any(layouts)
    for t in range(4):
        mine.zero_grad()
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(t))
        model(x).square().sum().backward()
        for p, q in zip(model.parameters(), copy.parameters(), strict=True):
            assert p.grad is not None
            q.grad = full(p.grad)
        theirs.step()
        with Dispatches() as dispatches:
            mine.step()
        if t > 0:
            found += [f"dispatched {name}" for name in dispatches.names]
    assert layouts == [layout_of(p) for p in model.parameters()]
    return [f"{how} {engine} {arguments} {x}" for x in found + states_that_differ(mine, theirs)]


RUNS: tuple[dict[str, Any], ...] = (
    {"momentum": 0.9},
    {"momentum": 0.9, "ema_decay": 0.5, "convention": "bengio"},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "convention": "caffe"},
)


def differences_of_networks(kinds: tuple[str, ...]) -> list[str]:
    return [
        difference
        for how in kinds
        for engine, runs in (("native", RUNS), ("eager", RUNS[::2]))
        for arguments in runs
        for difference in training_differences(how, engine, arguments)
    ]


def test_networks_have_the_bits_of_one_process_and_dispatch_nothing(world):
    assert world.run(3, differences_of_networks, ("fsdp",)) == [[]] * 3
    kinds = ("tensor", "hsdp", "tensor and fsdp")
    assert world.run(4, differences_of_networks, kinds) == [[]] * 4


def dispatches_of_the_norm() -> list[str]:
    model = sharded("fsdp")
    optimizer = sgdm.SGD(model.parameters(), momentum=0.9, max_grad_norm=1.0, nonfinite="skip")
    names: list[list[str]] = []
    for _ in range(2):
        model(torch.ones(2, 4)).sum().backward()
        with Dispatches() as dispatches:
            optimizer.step()
        names.append(dispatches.names)
    return names[-1]


def a_stale_graph(make_optimizer: Callable[..., torch.optim.Optimizer]) -> list[str]:
    """What happens to a graph that has kept a parameter which was stepped since."""
    mesh = init_device_mesh("cpu", (2,))
    p = nn.Parameter(laid_out(torch.ones(4), Layout(mesh, (ROWS,))))
    optimizer = make_optimizer([p], lr=0.1, momentum=0.9)
    found: list[str] = []
    for _ in range(2):  # a first step and a later one
        p.grad = laid_out(torch.ones(4), layout_of(p))
        kept = (p * p).sum()
        optimizer.step()
        try:
            kept.backward()
        except RuntimeError as error:
            found.append(str(error))
        else:
            found.append("nothing")
    return found


def recorded_steps() -> list[str]:
    """Steps that autograd records, with a buffer and an average."""
    found: list[str] = []
    mesh = init_device_mesh("cpu", (2,))
    for placed in (ROWS, REPLICATE):
        optimizers: list[sgdm.SGD] = []
        for layout in (Layout(mesh, (placed,)), None):
            p = nn.Parameter(laid_out(values(5, 3), layout)).clone()
            arguments: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "ema_decay": 0.5}
            optimizers.append(sgdm.SGD([p], differentiable=True, **arguments))
            for t in range(3):
                p.grad = laid_out(values(5, 3) + t, layout)
                optimizers[-1].step()
        found += [f"{placed} {x}" for x in states_that_differ(*optimizers)]
    return found


def test_recorded_steps_have_the_bits_of_one_process(world):
    assert world.run(2, recorded_steps) == [[]] * 2


def eager_sgd(params, **arguments) -> sgdm.SGD:
    return sgdm.SGD(params, engine="eager", **arguments)


def stale_graphs() -> list[str]:
    makers = (torch.optim.SGD, sgdm.SGD, eager_sgd)
    return [message for maker in makers for message in a_stale_graph(maker)]


def test_a_norm_dispatches_nothing_and_a_stale_graph_is_an_error(world):
    assert world.run(2, dispatches_of_the_norm) == [[]] * 2
    for messages in world.run(2, stale_graphs):
        assert len(messages) == 6
        for message in messages:
            assert "modified by an inplace operation" in message


# ---- gradients that are laid out otherwise ----


def mended_gradients() -> list[str]:
    """A step with gradients that are no shards of what the parameter's shards are."""
    mesh = init_device_mesh("cpu", (2,))
    rank, start, other = dist.get_rank(), values(5, 3), values(3, 5).T
    part = DTensor.from_local(other * (rank + 1), mesh, (Partial(),), run_check=False)
    found: list[str] = []
    for placed, gradient, expected in (
        (REPLICATE, part, other * 1 + other * 2),
        (ROWS, part, other * 1 + other * 2),
        (REPLICATE, laid_out(other, Layout(mesh, (ROWS,))), other),
        (ROWS, laid_out(other, Layout(mesh, (REPLICATE,))), other),
        (ROWS, laid_out(other, Layout(mesh, (COLUMNS,))), other),
    ):
        for engine in ("native", "eager"):
            p = nn.Parameter(laid_out(start, Layout(mesh, (placed,))))
            q = nn.Parameter(start.clone())
            p.grad, q.grad = gradient, expected
            before = held(gradient).clone()
            mine, theirs = (
                sgdm.SGD([x], lr=0.1, momentum=0.9, nesterov=True, engine=engine) for x in (p, q)
            )
            for _ in range(3):
                mine.step()
                theirs.step()
            kept = p.grad is gradient and torch.equal(held(gradient), before)
            if not kept or states_that_differ(mine, theirs):
                found.append(f"{placed} {engine} {layout_of(gradient)} {kept}")
    return found


def refused(param: Tensor, gradient: Tensor) -> str:
    """The error, and whether it came before anything was written."""
    other = nn.Parameter(torch.ones(2))
    other.grad = torch.ones(2)
    p = nn.Parameter(param)
    optimizer = sgdm.SGD([other, p], lr=0.1, momentum=0.9)
    p.grad = gradient
    try:
        optimizer.step()
    except InvalidValueError as error:
        unchanged = torch.equal(other, torch.ones(2)) and not optimizer.state
        return f"{error} {'' if unchanged else 'changed'}"
    return "stepped"


def refusals() -> list[str]:
    start = torch.ones(4, 2)
    mesh = init_device_mesh("cpu", (2,))
    turned = DeviceMesh("cpu", [1, 0])
    whole = laid_out(start, Layout(mesh, (ROWS,)))
    longer = laid_out(torch.ones(6, 2), Layout(mesh, (ROWS,)))
    try:
        gradient_shard(whole, longer)
    except InvalidValueError as error:
        message = str(error)
    else:
        message = "taken"
    return [
        refused(whole, start),
        refused(start, whole),
        refused(whole, laid_out(start, Layout(turned, (ROWS,)))),
        message,
    ]


def test_gradients_of_another_layout_are_mended_or_refused(world):
    assert world.run(2, mended_gradients) == [[]] * 2
    on_mesh = "(Shard(dim=0),) on the processes [0, 1]"
    must_be = "gradient must be laid out as its parameter is: "
    remedy = "; let autograd compute it for this parameter"
    plain, whole = "a plain tensor of shape (4, 2)", f"a DTensor of shape (4, 2), {on_mesh}"
    turned, longer = whole.replace("[0, 1]", "[1, 0]"), whole.replace("(4", "(6")
    expected = [
        f"{must_be}{whole}, got '{plain}'{remedy} ",
        f"{must_be}{plain}, got '{whole}'{remedy} ",
        f"{must_be}{whole}, got '{turned}'{remedy} ",
        f"{must_be}{whole}, got '{longer}'{remedy}",
    ]
    assert world.run(2, refusals) == [expected] * 2


# ---- state ----


def trained(case: Case, layouts: Sequence[Layout | None], **arguments) -> sgdm.SGD:
    params = [nn.Parameter(laid_out(values(5, 3), layout)) for layout in layouts]
    optimizer = make(case, params, **arguments)
    for t in range(3):
        step_with(optimizer, t)
    return optimizer


def step_with(optimizer: sgdm.SGD, t: int) -> None:
    """One step, in which the last parameter has a gradient at last."""

    def closure() -> float:
        params = optimizer.param_groups[0]["params"]
        for i, p in enumerate(params):
            gradient = torch.randn(5, 3, generator=torch.Generator().manual_seed(10 * t + i))
            late = i == len(params) - 1 and t < 3
            p.grad = None if late else laid_out(gradient, layout_of(p))
        return 0.0

    optimizer.step(closure)


def loaded_differences(mesh: DeviceMesh) -> list[str]:
    """Whole state, and state laid out otherwise, goes on where it is loaded."""
    rows, columns = Layout(mesh, (ROWS,)), Layout(mesh, (COLUMNS,))
    replica = Layout(mesh, (REPLICATE,))
    found: list[str] = []
    for case in (TORCH_DAMPENED, CAFFE_NESTEROV, BENGIO, Case("darknet", None)):
        for source in ([None] * 3, [columns, replica, rows], [rows, columns, replica]):
            theirs = trained(case, [None] * 3, ema_decay=0.5)
            old = trained(case, source, ema_decay=0.5)
            mine = trained(case, [rows, columns, replica], ema_decay=0.5)
            for group in mine.param_groups:
                for p in group["params"]:
                    p.grad = None
            mine.state.clear()
            mine.load_state_dict(old.state_dict())
            found += [f"{case} loaded {x}" for x in states_that_differ(mine, theirs)]
            step_with(mine, 3)
            step_with(theirs, 3)
            found += [f"{case} went on {x}" for x in states_that_differ(mine, theirs)]
    return found


def copied_differences(mesh: DeviceMesh) -> list[str]:
    """A copy and a pickle go on as the original does."""
    found: list[str] = []
    for duplicate in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        theirs = trained(TORCH_DAMPENED, [None] * 2, ema_decay=0.5)
        mine = duplicate(trained(TORCH_DAMPENED, [Layout(mesh, (ROWS,))] * 2, ema_decay=0.5))
        for t in (3, 4):
            step_with(mine, t)
            step_with(theirs, t)
        found += states_that_differ(mine, theirs)
    return found


def taken_over_differences(mesh: DeviceMesh) -> list[str]:
    """From torch.optim.SGD, in mid-run."""
    taken: list[sgdm.SGD] = []
    for layout in (Layout(mesh, (ROWS,)), None):
        p = nn.Parameter(laid_out(values(5, 3), layout))
        p.grad = laid_out(values(5, 3) + 1, layout)
        theirs = torch.optim.SGD([p], lr=0.1, momentum=0.9)
        theirs.step()
        theirs.step()
        taken.append(sgdm.SGD.from_torch(theirs, engine="native"))
        taken[-1].step()
    return states_that_differ(*taken)


def shown_differences(mesh: DeviceMesh) -> list[str]:
    """θ in place of Θ, and averages in place of parameters, which come back."""
    layouts = [Layout(mesh, (ROWS,)), Layout(mesh, (COLUMNS,)), None]
    mine, theirs = (trained(BENGIO, own, ema_decay=0.5) for own in (layouts, [None] * 3))
    before = [p.detach().clone() for p in theirs.param_groups[0]["params"]]
    found: list[str] = []
    for method in ("at_iterate", "averaged"):
        with getattr(mine, method)(), getattr(theirs, method)():
            found += [f"{method} {x}" for x in states_that_differ(mine, theirs)]
            moved = zip(before, theirs.param_groups[0]["params"], strict=True)
            if all(torch.equal(x, p) for x, p in moved):
                found.append(f"{method} shows nothing")
        found += [f"after {method} {x}" for x in states_that_differ(mine, theirs)]
    return found


def state_differences() -> list[str]:
    mesh = init_device_mesh("cpu", (2,))
    checks = loaded_differences, copied_differences, taken_over_differences, shown_differences
    return [f"{check.__name__}: {x}" for check in checks for x in check(mesh)]


def state_of_shards_for_plain_parameters() -> list[str]:
    mesh = init_device_mesh("cpu", (2,))
    messages: list[str] = []
    for layout in (None, Layout(DeviceMesh("cpu", [1, 0]), (ROWS,))):
        own = trained(TORCH, [layout] * 2)
        kept = copy.deepcopy(own.state_dict())
        try:
            own.load_state_dict(trained(TORCH, [Layout(mesh, (ROWS,))] * 2).state_dict())
        except InvalidValueError as error:
            messages.append(str(error))
        buffers = (x["state"][0]["momentum_buffer"] for x in (kept, own.state_dict()))
        assert torch.equal(*(x.to_local() if isinstance(x, DTensor) else x for x in buffers))
    return messages


def test_state_is_laid_out_as_its_parameter(world):
    assert world.run(2, state_differences) == [[]] * 2
    whole = "a DTensor of shape (5, 3), (Shard(dim=0),) on the processes [0, 1]"
    own = "a plain tensor of shape (5, 3)", whole.replace("[0, 1]", "[1, 0]")
    expected = [
        f"momentum_buffer must be laid out as its parameter is: {x}, got '{whole}'; load it by "
        "torch.distributed.checkpoint.state_dict.set_optimizer_state_dict"
        for x in own
    ]
    assert world.run(2, state_of_shards_for_plain_parameters) == [expected] * 2
