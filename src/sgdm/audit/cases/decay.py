"""Weight decay is in proportion to the parameter, of its own group, and applied once."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sgdm.audit.case import Case
from sgdm.audit.cases.changes import LRS

__all__ = ["CASES"]


def decay_is_applied_once(make: Callable[..., Any], dtype: torch.dtype, groups: int) -> None:
    """The company is zeros with zero gradients: no norm and no sum can feel it."""
    p, q = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    other = torch.nn.Parameter(torch.zeros(4, 4, dtype=dtype))
    p.grad, q.grad, other.grad = p.detach() / 1000, q.detach() / 1000, torch.zeros_like(other)
    make([p], weight_decay=0.1).step()
    params = [q, other] if groups == 1 else [{"params": [q]}, {"params": [other]}]
    make(params, weight_decay=0.1).step()
    a, b = p[0, 0].item(), q[0, 0].item()
    assert abs(a - b) <= 0.01 * abs(a - 1), f"1 decays to {a:.7g} alone, and to {b:.7g} in company"


def decay_is_of_its_own_group(make: Callable[..., Any], own: float, other: float) -> None:
    p, q = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    r, s = (torch.nn.Parameter(torch.zeros(4, 4)) for _ in range(2))
    for x in (p, q, r, s):
        x.grad = x.detach() / 1000
    make([p], weight_decay=own).step()
    decays = ((r, other), (q, own), (s, other))
    make([{"params": [x], "weight_decay": decay} for x, decay in decays]).step()
    a, b = p[0, 0].item(), q[0, 0].item()
    same = abs(a - b) <= 0.01 * abs(a - 1)
    assert same, f"1 becomes {a:.7g} alone, and {b:.7g} between groups with weight_decay={other}"


def decay_leaves_zero_alone(make: Callable[..., Any], more: Mapping[str, Any]) -> None:
    ends: list[float] = []
    for weight_decay in (0.0, 0.1):
        p = torch.nn.Parameter(torch.eye(4))
        p.grad = torch.eye(4)
        make([p], weight_decay=weight_decay, **more).step()
        ends.append(p[0, 1].item())
    assert ends[0] or not ends[1], f"an element 0 with gradient 0 decays to {ends[1]:g}"


def decay_shrinks(make: Callable[..., Any], more: Mapping[str, Any]) -> None:
    """Where it first acts: with a large lr the next step may well go too far."""
    p = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = make([p], weight_decay=0.1, **more)
    p.grad = torch.zeros_like(p)
    for _ in range(2):
        if (p == 1).all():
            optimizer.step()
    assert not (p > 1).any(), f"1 decays to {p[0, 0]:.7g}"


def lr_0_stops_decay(make: Callable[..., Any]) -> None:
    """torch.distributed.checkpoint steps so, to have the state made."""
    p = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = make([p], weight_decay=0.1)
    optimizer.param_groups[0]["lr"] = 0.0
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert (p == 1).all(), f"with lr=0, 1 decays to {p[0, 0]:.7g}"


def decay_is_not_doubled(make: Callable[..., Any], momentum: float) -> None:
    """The step for decay alone, over the step for a gradient of the same size."""
    moved: list[float] = []
    for g, weight_decay in ((0.1, 0.0), (0.0, 0.1)):
        p = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.float64))
        optimizer = make([p], lr=0.03, momentum=momentum, weight_decay=weight_decay)
        p.grad = torch.full_like(p, g)
        optimizer.step()
        moved.append(1 - p[0, 0].item())
    doubled = abs(moved[1] - 2 * moved[0]) < 0.01 * abs(moved[0])
    assert not doubled, "weight_decay=0.1 moves twice as far as a gradient of 0.1*p"


CASES = (
    Case(
        defect="decay is applied several times",
        body=decay_is_applied_once,
        settings=tuple(
            {"dtype": dtype, "groups": groups}
            for dtype in (torch.float32, torch.float64, torch.bfloat16)
            for groups in (1, 2)
        ),
        needs=("weight_decay",),
        may_refuse=True,
    ),
    Case(
        defect="a group decays by another group's weight_decay",
        body=decay_is_of_its_own_group,
        settings=({"own": 0.1, "other": 0.0}, {"own": 0.0, "other": 0.1}),
        needs=("weight_decay",),
        torch_only=True,
        may_refuse=True,
    ),
    Case(
        defect="decay is a constant, not in proportion to the parameter",
        body=decay_leaves_zero_alone,
        settings=({"more": {}}, {"more": {"momentum": 0.9}}),
        needs=("weight_decay",),
    ),
    Case(
        defect="decay makes parameters grow",
        body=decay_shrinks,
        settings=tuple({"more": lr | more} for lr in LRS for more in ({}, {"maximize": True})),
        needs=("weight_decay",),
        may_refuse=True,  # a gradient of zeros is another theme
    ),
    Case(
        defect="decay acts though lr is 0",
        body=lr_0_stops_decay,
        needs=("lr", "weight_decay"),
        torch_only=True,
        may_refuse=True,
        note=True,
    ),
    Case(
        defect="decay counts double",
        body=decay_is_not_doubled,
        settings=({"momentum": 0.0}, {"momentum": 0.9}),
        needs=("lr", "momentum", "weight_decay"),
        may_refuse=True,
        note=True,
    ),
)
