"""DTensors with the engine for CUDA: what processes decide together, their devices decide."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard

import sgdm
from driving import buffer_of
from sharding import Layout, full, held, laid_out

pytest.importorskip("triton", reason="Triton is not installed")

from device_twins import DEVICE, QUIET, bits
from sgdm.engines.triton.prepared import TritonStep

# On a machine with one GPU the processes share it: gloo adds up what is on it, NCCL would not.
pytestmark = [QUIET, pytest.mark.long]

SHAPES = ((5, 3), (1,), (33,), (7, 2))
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"max_grad_norm": 0.7},
    {"max_grad_norm": math.inf, "nonfinite": "skip"},
    {"nonfinite": "skip", "max_grad_norm": 0.7, "fused": True},
    {"fused": True},
)


def layouts(size: int, placement: Any) -> list[Layout]:
    mesh = init_device_mesh(DEVICE, (size,))
    return [Layout(mesh, (placement,)) for _ in SHAPES]


def drawn(t: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(t)
    return [torch.randn(shape, generator=draw) for shape in SHAPES]


class Pair:
    """The same DTensors twice: with this engine, and with torch's operations."""

    def __init__(self, where: list[Layout], **arguments: Any) -> None:
        self.optimizers: list[sgdm.SGD] = []
        self.where = where
        for engine in ("triton", "eager"):
            params = [nn.Parameter(laid_out(x, at)) for x, at in zip(drawn(99), where, strict=True)]
            self.optimizers.append(
                sgdm.SGD(params, lr=0.1, momentum=0.9, engine=engine, **arguments)
            )

    def step(
        self, t: int, rank_with: int | None = None, bad: float = math.nan, found: bool = False
    ):
        """One step of both, where one process alone may have a bad gradient or an overflow."""
        is_it = dist.get_rank() == rank_with
        for optimizer in self.optimizers:
            params = optimizer.param_groups[0]["params"]
            for p, g, at in zip(params, drawn(t), self.where, strict=True):
                p.grad = laid_out(g, at)
            if is_it and not found:
                held(params[0].grad)[0] = bad
            if optimizer.defaults["fused"]:
                vars(optimizer)["grad_scale"] = torch.tensor(4.0, device=DEVICE)
                vars(optimizer)["found_inf"] = torch.tensor(float(is_it and found), device=DEVICE)
            optimizer.step()

    def differences(self) -> list[str]:
        mine, rival = self.optimizers
        own, theirs = (o.param_groups[0]["params"] for o in self.optimizers)
        found: list[str] = []
        if mine.last_step_skipped != rival.last_step_skipped:
            found.append(f"skipped: {mine.last_step_skipped}, not {rival.last_step_skipped}")
        a, b = mine.last_grad_norm, rival.last_grad_norm
        if (a is None) != (b is None) or (a is not None and b is not None and not near(a, b)):
            found.append(f"the norm is {a}, not {b}")
        exact = mine.max_grad_norm in (None, math.inf)
        for i, (p, q) in enumerate(zip(own, theirs, strict=True)):
            for pair in ((p, q), (buffer_of(mine, p), buffer_of(rival, q))):
                x, y = map(held, pair)
                same = torch.equal(bits(x), bits(y)) if exact else torch.allclose(x, y, rtol=1e-6)
                if not same:
                    found.append(f"{i}: {x}, not {y}")
        return found


def near(a: float, b: float) -> bool:
    return a == pytest.approx(b, rel=1e-12, nan_ok=True)


def run(size: int, placement: Any, arguments: dict[str, Any]) -> list[str]:
    asked: list[bool] = []
    own = TritonStep.run

    def noting(step: TritonStep, options: Any, over_ranks: Any = None) -> Any:
        asked.append(over_ranks is not None)
        return own(step, options, over_ranks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TritonStep, "run", noting)
        pair = Pair(layouts(size, placement), **arguments)
        found: list[str] = []
        for t in range(3):
            pair.step(t)
            found += pair.differences()
        if "nonfinite" in arguments:
            pair.step(3, rank_with=size - 1)
            found += [*pair.differences(), *unless(pair.optimizers[0].last_step_skipped)]
        if "fused" in arguments:
            pair.step(4, rank_with=0, found=True)
            found += [*pair.differences(), *unless(pair.optimizers[0].last_step_skipped)]
        pair.step(5)
        found += pair.differences() + unless(len(asked) > 3 and all(asked))
        return found + unless(placement.is_shard() or same_everywhere(pair))


def unless(it_is_so: bool) -> list[str]:
    return [] if it_is_so else ["it is not so"]


def same_everywhere(pair: Pair) -> bool:
    """Whether a replica is the same, bit for bit, on all processes."""
    replica = held(pair.optimizers[0].param_groups[0]["params"][3]).cpu()
    every = [torch.empty_like(replica) for _ in range(dist.get_world_size())]
    dist.all_gather(every, replica)
    return all(torch.equal(bits(x), bits(replica)) for x in every)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("placement", [Shard(0), Replicate()], ids=str)
@pytest.mark.parametrize("arguments", OPTIONS, ids=str)
def test_processes_decide_as_on_the_host(world, size, placement, arguments):
    """Uneven and empty shards, replicas that are counted once, a NaN or overflow on one alone."""
    for found in world.run(size, run, size, placement, arguments):
        assert found == []


def with_mixed_layouts(size: int) -> list[str]:
    """The first process steps by the host, which has a plain tensor's gradient, the others not."""
    pair = Pair(layouts(size, Shard(0)), max_grad_norm=0.7, fused=True)
    for optimizer in pair.optimizers:
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, device=DEVICE))]})
        if dist.get_rank() == 0:
            optimizer.param_groups[1]["params"][0].grad = torch.zeros(2, device=DEVICE)
    found: list[str] = []
    for t in range(3):
        pair.step(t)
        found += pair.differences()
    pair.step(3, rank_with=1, found=True)
    return found + pair.differences()


def test_a_process_that_asks_by_its_host_and_one_that_does_not_understand_each_other(world):
    for found in world.run(2, with_mixed_layouts, 2):
        assert found == []


def without_waiting(arguments: dict[str, Any]) -> None:
    pair = Pair(layouts(2, Shard(0)), **arguments)
    mine = pair.optimizers[0]
    del pair.optimizers[1]
    for t in range(3):
        with pytest.MonkeyPatch.context() as patch:
            if t:  # the first makes buffers
                for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
                    patch.setattr(Tensor, name, lambda _: pytest.fail("it waits"))
            pair.step(t)
    assert mine.last_step_skipped is False


@pytest.mark.parametrize("arguments", OPTIONS, ids=str)
def test_nobody_waits_after_the_first_step(world, arguments):
    world.run(2, without_waiting, arguments)


def raising() -> str:
    pair = Pair(layouts(2, Shard(0)), nonfinite="raise")
    del pair.optimizers[1]
    pair.step(0)
    kept = [full(p) for p in pair.optimizers[0].param_groups[0]["params"]]
    try:
        pair.step(1, rank_with=1, bad=math.inf)
    except sgdm.errors.InvalidValueError as error:
        now = [full(p) for p in pair.optimizers[0].param_groups[0]["params"]]
        assert all(map(torch.equal, kept, now))
        return str(error)
    return "it is not raised"


def test_a_gradient_that_is_not_finite_is_named_where_it_is(world):
    there, here = world.run(2, raising)
    assert "of another process" in there
    assert "the gradient of parameter 0 of group 0 must be finite" in here
