"""torch.distributed.checkpoint: saved by four processes, loaded by any number, the same bits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard

import sgdm
from cases import BENGIO, CAFFE, EVERY_RULE, TORCH, TORCH_DAMPENED, Case
from driving import make
from sharding import Layout, full, laid_out, layout_of, same_bits

DARKNET = Case("darknet", None)
# What each keeps, besides the plain buffer of the first.
RUNS: dict[str, tuple[Case, torch.dtype, dict[str, Any]]] = {
    "buffers": (TORCH, torch.float32, {}),
    "counts of steps": (TORCH_DAMPENED, torch.float32, {"weight_decay": 0.1}),
    "lr in the buffer": (CAFFE, torch.float32, {}),
    "the last momentum": (DARKNET, torch.float32, {"weight_decay": 0.1}),
    "the weight of the iterate": (BENGIO, torch.float32, {}),
    "averages": (TORCH_DAMPENED, torch.float32, {"ema_decay": 0.9}),
    "wide buffers": (TORCH, torch.bfloat16, {"buffer_dtype": torch.float32, "ema_decay": 0.9}),
    "corrected": (CAFFE, torch.float32, {"correct_momentum": True}),
}
BEFORE, AFTER = 3, 2


def network(seed: int, dtype: torch.dtype, *, shard: bool) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2, bias=False), nn.LayerNorm(2)).to(dtype)
    if shard:
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return model


def begin(what: str, seed: int, *, shard: bool) -> tuple[nn.Module, sgdm.SGD]:
    case, dtype, arguments = RUNS[what]
    model = network(seed, dtype, shard=shard)
    params = list(model.parameters())
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.05, "momentum": 0.5}]
    return model, make(case, groups, **arguments)


def go_on(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, steps: int) -> None:
    """Steps with drawn gradients, under a schedule; one parameter has none before the save.

    Not where averages are kept: a parameter's begins with its first step.
    """
    for t in range(first, first + steps):
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
            group["momentum"] *= 0.95
        averaged = optimizer.param_groups[0]["ema_decay"] is not None
        for i, p in enumerate(model.parameters()):
            draw = torch.Generator().manual_seed(100 * t + i)
            gradient = torch.randn(p.shape, generator=draw).to(p.dtype)
            p.grad = (
                None if i == 1 and t < BEFORE and not averaged else laid_out(gradient, layout_of(p))
            )
        optimizer.step()


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The tensors of a run, and what its groups say, by name."""
    found: dict[str, Any] = {}
    for name, p in model.named_parameters():
        found[name] = p
        found |= {f"{key} of {name}": x for key, x in optimizer.state[p].items()}
    for i, group in enumerate(optimizer.param_groups):
        settings = {key: x for key, x in group.items() if key != "params"}
        found |= {f"{key} of group {i}": x for key, x in settings.items()}
    return found


def apart(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Where a sharded run differs from one of a single process."""
    found = sorted(mine.keys() ^ theirs.keys())
    for name in sorted(mine.keys() & theirs.keys()):
        a, b = mine[name], theirs[name]
        same = same_bits(a, b) if isinstance(b, Tensor) else a == b
        if not same:
            found.append(name)
    return found


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer, flat: bool) -> dict[str, Any]:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
    }


def save_all(folder: str, flat: bool) -> list[str]:
    found: list[str] = []
    for what in RUNS:
        model, optimizer = begin(what, 0, shard=True)
        get_optimizer_state_dict(model, optimizer)  # all have a state, also the one that is late
        go_on(model, optimizer, 0, BEFORE)
        state = state_of(model, optimizer, flat)
        if not flat and set(state["optimizer"]["state"]) != set(dict(model.named_parameters())):
            found.append(f"{what} is not kept by name: {list(state['optimizer']['state'])}")
        dcp.save(state, checkpoint_id=f"{folder}/{what}")
    return found


def load(
    folder: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    flat: bool,
    **settings: bool,
) -> None:
    state = state_of(model, optimizer, flat)
    dcp.load(state, checkpoint_id=folder, planner=DefaultLoadPlanner(**settings))
    set_model_state_dict(model, state["model"])
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)


def load_all(folder: str, flat: bool, shard: bool) -> list[str]:
    """Load every run into fresh ones and go on, beside a run of one process."""
    found: list[str] = []
    for what in RUNS:
        own, reference = begin(what, 0, shard=False)
        get_optimizer_state_dict(own, reference)
        go_on(own, reference, 0, BEFORE)
        model, optimizer = begin(what, 7, shard=shard)
        optimizer.param_groups[0]["lr"] = 0.7
        load(f"{folder}/{what}", model, optimizer, flat)
        for moment in ("loaded", "went on"):
            runs = everything(model, optimizer), everything(own, reference)
            found += [f"{what} {moment}: {x}" for x in apart(*runs)]
            for run in ((model, optimizer), (own, reference)):
                go_on(*run, BEFORE, AFTER)
        assert shard == any(isinstance(p, DTensor) for p in model.parameters())
    return found


@pytest.mark.parametrize(
    ("flat", "size"),
    [
        (False, 3),
        *(
            pytest.param(*settings, marks=pytest.mark.long)
            for settings in ((False, 1), (False, 2), (True, 3))
        ),
    ],
)
def test_a_checkpoint_goes_on_with_the_same_bits_on_any_number_of_processes(
    world, tmp_path, flat, size
):
    folder = str(tmp_path)
    assert world.run(4, save_all, folder, flat) == [[]] * 4
    assert world.run(1, load_all, folder, flat, False) == [[]]
    assert world.run(size, load_all, folder, flat, True) == [[]] * size


def full_differences() -> list[str]:
    """Whole state, as one process would have it, given to all or to the first alone."""
    found: list[str] = []
    for what in RUNS:
        model, optimizer = begin(what, 0, shard=True)
        get_optimizer_state_dict(model, optimizer)
        go_on(model, optimizer, 0, BEFORE)
        for sent in (False, True):
            options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=sent)
            state = get_optimizer_state_dict(model, optimizer, options=options)
            again, fresh = begin(what, 0, shard=True)
            given = {} if sent and dist.get_rank() > 0 else state
            set_optimizer_state_dict(again, fresh, given, options=options)
            runs = everything(again, fresh), everything(model, optimizer)
            found += [f"{what} {x}" for x in apart(*runs) if " of " in x]
    return found


def test_whole_state_is_spread(world):
    assert world.run(2, full_differences) == [[]] * 2


# ---- the step by which torch asks which state there will be ----


class Parts(nn.Module):
    """Parameters of every layout, and one with an empty shard."""

    def __init__(self, *, shard: bool) -> None:
        super().__init__()
        layouts: list[Layout | None] = [None] * 3
        if shard:
            mesh = init_device_mesh("cpu", (2,))
            layouts = [Layout(mesh, (placed,)) for placed in (Shard(0), Shard(0), Replicate())]
        for i, (shape, layout) in enumerate(zip(((4, 3), (1,), (2, 2)), layouts, strict=True)):
            start = torch.randn(shape, generator=torch.Generator().manual_seed(i))
            self.register_parameter(f"p{i}", nn.Parameter(laid_out(start, layout)))


def give_gradients(model: nn.Module, t: int) -> None:
    for i, p in enumerate(model.parameters()):
        draw = torch.Generator().manual_seed(10 * t + i)
        p.grad = laid_out(torch.randn(p.shape, generator=draw), layout_of(p))


def probed_differences() -> list[str]:
    """Asking changes nothing, and the steps after it are those of a run that was not asked."""
    found: list[str] = []
    for case in EVERY_RULE:
        if case.needs_closure:
            continue  # torch's step of zeros has none
        mine, theirs = Parts(shard=True), Parts(shard=False)
        arguments: dict[str, Any] = {"weight_decay": 0.1, "ema_decay": 0.5}
        asked, other = (make(case, x.parameters(), **arguments) for x in (mine, theirs))
        groups = dict(other.param_groups[0])
        get_optimizer_state_dict(mine, asked)
        held = dict(mine.named_parameters())
        found += [f"{case} asked: {x}" for x in apart(held, dict(theirs.named_parameters()))]
        kept = asked.param_groups[0]
        found += [f"{case} asked: {x}" for x in groups if x != "params" and kept[x] != groups[x]]
        buffers = [s["momentum_buffer"] for s in asked.state.values()]
        if len(buffers) != 3 or any(full(b).any() for b in buffers):
            found.append(f"{case} has no buffers of zeros")
        for t in range(2):
            for model, optimizer in ((mine, asked), (theirs, other)):
                give_gradients(model, t)
                optimizer.step()
        states = everything(mine, asked), everything(theirs, other)
        found += [f"{case} went on: {x}" for x in apart(*states)]
    return found


def real_differences_with_lr_0() -> list[str]:
    """A first step with lr 0 and gradients on one process only is a real one on all."""
    found: list[str] = []
    for case in (TORCH_DAMPENED, TORCH, BENGIO):
        for row in (0, 3):
            mine, theirs = Parts(shard=True), Parts(shard=False)
            runs = [(x, make(case, x.parameters(), lr=0.0)) for x in (mine, theirs)]
            for model, optimizer in runs:
                for t in range(2):
                    for p in model.parameters():
                        gradient = torch.zeros(p.shape)
                        if len(p) == 4:
                            gradient[row] = t + 1.0
                        p.grad = laid_out(gradient, layout_of(p))
                    optimizer.step()
                    optimizer.param_groups[0]["lr"] = 0.1
            found += [f"{case} {row} {x}" for x in apart(*(everything(*run) for run in runs))]
    return found


def test_the_step_of_zeros_is_told_from_real_ones(world):
    assert world.run(2, probed_differences) == [[]] * 2
    assert world.run(2, real_differences_with_lr_0) == [[]] * 2


# ---- state that is missing, and checkpoints of torch.optim.SGD ----


def attempt(load_it: Callable[[], object]) -> str:
    try:
        load_it()
    except (RuntimeError, ValueError, CheckpointException) as error:
        return str(error)
    return "loaded"


def loads_without_a_state(folder: str, flat: bool) -> tuple[str, list[str]]:
    """Of a run that was not asked before, whose late parameter has no state yet."""
    model, optimizer = begin("counts of steps", 0, shard=True)
    go_on(model, optimizer, 0, BEFORE)
    dcp.save(state_of(model, optimizer, flat), checkpoint_id=folder)
    fresh_model, fresh = begin("counts of steps", 7, shard=True)
    message = attempt(lambda: load(folder, fresh_model, fresh, flat))
    again, late = begin("counts of steps", 7, shard=True)
    load(folder, again, late, flat, allow_partial_load=True)
    for run in ((again, late), (model, optimizer)):
        go_on(*run, BEFORE, AFTER)
    return message, apart(everything(again, late), everything(model, optimizer))


def test_a_parameter_without_state_is_loaded_with_partial_loading_alone(world, tmp_path):
    for flat in (False, True):
        for answer in world.run(2, loads_without_a_state, str(tmp_path / str(flat)), flat):
            message, different = answer
            assert "Missing key in checkpoint state_dict: optimizer.state.0.bias." in message
            assert different == []


def begin_torch(seed: int) -> tuple[nn.Module, torch.optim.SGD]:
    model = network(seed, torch.float32, shard=True)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def give_some(model: nn.Module, t: int) -> None:
    """Gradients that are zero in the shards of the last process."""
    for p in model.parameters():
        gradient = torch.zeros(p.shape)
        gradient[0] = t + 1.0
        p.grad = laid_out(gradient, layout_of(p))


def averages_of_none(folder: str) -> list[str]:
    """Load a run that has kept no averages into one that keeps them."""
    model, theirs = begin_torch(0)
    give_some(model, 0)
    theirs.step()
    dcp.save(state_of(model, theirs, False), checkpoint_id=folder)
    again = network(7, torch.float32, shard=True)
    mine = sgdm.SGD(again.parameters(), lr=0.1, momentum=0.9, ema_decay=0.5)
    load(folder, again, mine, False, allow_partial_load=True)
    params = list(again.parameters())
    before = [full(p).clone() for p in params]
    with mine.averaged():
        shown = [full(p).clone() for p in params]
    found = [f"shown {i}" for i in range(5) if not torch.equal(before[i], shown[i])]
    give_some(again, 1)
    mine.step()
    averages = [mine.state[p]["average"] for p in params]
    begun = zip(params, averages, strict=True)
    return found + [f"begun {i}" for i, (p, a) in enumerate(begun) if not same_bits(a, full(p))]


def test_averages_that_no_checkpoint_has_begin_anew(world, tmp_path):
    assert world.run(2, averages_of_none, str(tmp_path)) == [[]] * 2


def loads_of_torchs(folder: str, flat: bool) -> tuple[list[str], list[str]]:
    model, theirs = begin_torch(0)
    for t in range(2):
        give_some(model, t)
        theirs.step()
    dcp.save(state_of(model, theirs, flat), checkpoint_id=folder)
    messages: list[str] = []
    different: list[str] = []
    # Straight into sgdm.SGD: refused, or with a first step that is done on every process.
    for partial in (False, True):
        again = network(1, torch.float32, shard=True)
        mine = sgdm.SGD(again.parameters(), lr=0.5, momentum=0.9, dampening=0.5)

        def load_it(model=again, mine=mine, partial=partial):
            load(folder, model, mine, flat, allow_partial_load=partial)

        messages.append(attempt(load_it))
    states = mine.state.values()
    different += [f"steps={x['steps']}" for x in states if x["steps"] != 1]
    # Through torch's own, which has the keys of the checkpoint.
    for how in ("taken over", "converted"):
        again, old = begin_torch(1)
        load(folder, again, old, flat)
        if how == "taken over":
            mine = sgdm.SGD.from_torch(old)
        else:
            mine = sgdm.SGD(again.parameters(), lr=0.1, momentum=0.9, convention="caffe")
            mine.load_state_dict(sgdm.convert_state_dict(old.state_dict(), to="caffe"))
        for t in range(2, 4):
            for each, optimizer in ((again, mine), (model, theirs)):
                if how == "taken over" or each is again:
                    give_some(each, t)
                    optimizer.step()
        pairs = zip(again.parameters(), model.parameters(), strict=True)
        gaps = [(full(p) - full(q)).abs().max().item() for p, q in pairs]
        different += [how] if max(gaps) > (0 if how == "taken over" else 1e-5) else []
    return messages, different


def test_a_checkpoint_of_torchs_sgd_comes_in_through_torchs_sgd(world, tmp_path):
    for flat in (False, True):
        for answer in world.run(2, loads_of_torchs, str(tmp_path / str(flat)), flat):
            (refused, taken), different = answer
            assert "Missing key in checkpoint state_dict: optimizer." in refused
            assert taken == "loaded"
            assert different == []
