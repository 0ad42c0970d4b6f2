"""What a step is made of: found in one pass where nothing is to be kept, the same as one by one."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import sgdm
from sgdm.engines.plan import Part, StepPlan
from sgdm.group import GroupRules
from sgdm.parts import add_parts

LATE, NEVER = 1, 3  # the parameters without a gradient in the first steps, and in all


class Case(NamedTuple):
    arguments: dict[str, Any]
    changes: Mapping[str, Any] = MappingProxyType({})  # of the group, after the first steps
    steps: int = 2
    late: bool = False
    none: bool = False  # whether no parameter has a gradient
    slow: bool = False  # whether states hold more, or less, than such steps write


CASES = {
    "momentum": Case({"momentum": 0.9}),
    "no momentum": Case({}),
    "no momentum, never stepped": Case({}, steps=0),
    "average": Case({"momentum": 0.9, "ema_decay": 0.5}),
    "average without momentum": Case({"ema_decay": 0.5}),
    "first step": Case({"momentum": 0.9}, steps=0, slow=True),
    "first average": Case({"ema_decay": 0.5}, steps=0, slow=True),
    "one parameter's first step": Case({"momentum": 0.9}, late=True, slow=True),
    "one parameter's first average": Case({"ema_decay": 0.5}, late=True, slow=True),
    "average from now on": Case({"momentum": 0.9}, {"ema_decay": 0.5}, slow=True),
    "no average from now on": Case(
        {"momentum": 0.9, "ema_decay": 0.5}, {"ema_decay": None}, slow=True
    ),
    "momentum from now on": Case({}, {"momentum": 0.9}, slow=True),
    "no momentum from now on": Case({"momentum": 0.9}, {"momentum": 0}, slow=True),
    "counted steps": Case({"momentum": 0.9, "dampening": 0.5}, slow=True),
    "none has a gradient": Case({"momentum": 0.9}, none=True),
}


def prepared(case: Case, params: list[Tensor]) -> sgdm.SGD:
    optimizer = sgdm.SGD(params, lr=0.1, **case.arguments)
    for step in range(case.steps + 1):
        for i, p in enumerate(params):
            without = i == NEVER or (case.late and i == LATE and step < case.steps)
            p.grad = None if without or case.none else torch.ones_like(p)
        if step < case.steps:
            optimizer.step()
    optimizer.param_groups[0].update(case.changes)
    return optimizer


def parts(optimizer: sgdm.SGD, *, one_by_one: bool) -> tuple[list[Part], list[Part]]:
    """Return all of them, and those of which something is to be kept."""
    (group,) = optimizer.param_groups
    params = group["params"]
    gradients = [p.grad for p in params] if one_by_one else None
    plan = StepPlan()
    made = add_parts(plan, params, GroupRules(group), optimizer.state, gradients)
    return plan.parts, list(made)


def tensors(part: Part) -> list[list[int] | None]:
    """Return which tensors it has. What a rule does not touch may be there or not."""
    touched = part.buffers if part.rule.coefficients.buffer == "running" else None
    columns = (part.params, part.gradients, touched, part.averages, part.wholes)
    return [None if column is None else [id(x) for x in column] for column in columns]


def check(case: Case, params: list[Tensor]) -> None:
    optimizer = prepared(case, params)
    found, made = parts(optimizer, one_by_one=False)
    expected, _ = parts(optimizer, one_by_one=True)
    assert bool(made) == case.slow
    assert [part.rule for part in found] == [part.rule for part in expected]
    assert list(map(tensors, found)) == list(map(tensors, expected))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_in_one_pass_as_one_by_one(case):
    check(case, [torch.nn.Parameter(torch.ones(2)) for _ in range(4)])


def of_shards() -> None:
    mesh = init_device_mesh("cpu", (2,))
    for case in CASES.values():
        placements = (Shard(0), Replicate(), Shard(0), Shard(0))
        wholes = (distribute_tensor(torch.ones(3), mesh, [placed]) for placed in placements)
        check(case, [torch.nn.Parameter(whole) for whole in wholes])


def test_shards_in_one_pass_as_one_by_one(world):
    world.run(2, of_shards)
