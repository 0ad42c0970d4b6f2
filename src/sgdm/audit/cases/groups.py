"""Parameters and groups of one optimizer do not touch each other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sgdm.audit.case import Case
from sgdm.audit.cases.changes import WITH_CHANGES

__all__ = ["CASES"]


def groups_keep_their_settings(
    make: Callable[..., Any], name: str, values: Sequence[float], more: Mapping[str, Any]
) -> None:
    """The gradients' norm stays below 1, in case the subject clips it."""
    ps, qs = ([torch.nn.Parameter(torch.ones(2)) for _ in range(2)] for _ in range(2))
    together = make([{"params": [p], name: v} for p, v in zip(ps, values, strict=True)], **more)
    alone = [make([q], **{name: v}, **more) for q, v in zip(qs, values, strict=True)]
    for step in range(3):
        for p in ps + qs:
            p.grad = torch.full_like(p, (step + 1) / 10)
        for optimizer in (together, *alone):
            optimizer.step()
    same = [torch.allclose(p, q) for p, q in zip(ps, qs, strict=True)]
    assert all(same), f"a group's {name}={values[same.index(False)]} is not what it is stepped by"


def later_group_starts_afresh(make: Callable[..., Any], changes: dict[str, Any]) -> None:
    """The gradients' norm stays below 1, in case the subject clips it."""
    p, q, r = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    a, b = make([p], **changes), make([r], **changes)
    p.grad = torch.full((2,), 0.1)
    a.step()
    a.add_param_group({"params": [q], **changes})
    for step in range(3):
        p.grad, q.grad, r.grad = (torch.full((2,), (step + 1) / 10) for _ in range(3))
        a.step()
        b.step()
    assert torch.allclose(q, r), f"added later, a group ends at {q[0]:.9g}, alone at {r[0]:.9g}"


def kinds_share_a_group(make: Callable[..., Any], kinds: Sequence[dict[str, Any]]) -> None:
    """Gradients of a norm below 1; who rounds at random steps otherwise each time alone, too."""
    start = [torch.full((50,), 1e-3, **kind) for kind in kinds]
    ps, qs, rs = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(3))
    optimizers = [make(ps), *(make([q]) for q in qs + rs)]
    for step in range(3):
        for p in ps + qs + rs:
            p.grad = torch.full_like(p, (step + 1) / 100)
        for optimizer in optimizers:
            optimizer.step()
    same = [torch.allclose(p, q) or not q.equal(r) for p, q, r in zip(ps, qs, rs, strict=True)]
    assert all(same), f"in one group with others, {kinds[same.index(False)]} is stepped otherwise"


def grouping_does_not_matter(make: Callable[..., Any], changes: dict[str, Any]) -> None:
    """The gradients' norm stays below 1, in case the subject clips it."""
    ps, qs = ([torch.nn.Parameter(torch.ones(n)) for n in (1, 5, 33, 1000)] for _ in range(2))
    optimizers = [make(ps, **changes), *(make([q], **changes) for q in qs)]
    for _ in range(3):
        for p, q in zip(ps, qs, strict=True):
            g = torch.rand_like(p) / 100
            p.grad, q.grad = g, g.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert all(map(torch.equal, ps, qs)), "together, parameters are stepped otherwise than alone"


def order_does_not_matter(make: Callable[..., Any], changes: dict[str, Any]) -> None:
    """The gradients' norm stays below 1, in case the subject clips it."""
    ps, qs = ([torch.nn.Parameter(torch.ones(n)) for n in (1, 5, 33, 1000)] for _ in range(2))
    a, b = make(ps, **changes), make(qs[::-1], **changes)
    for _ in range(3):
        for p, q in zip(ps, qs, strict=True):
            g = torch.rand_like(p) / 100
            p.grad, q.grad = g, g.clone()
        a.step()
        b.step()
    assert all(map(torch.equal, ps, qs)), "in another order, parameters are stepped otherwise"


_DTYPES = (
    (torch.float32, torch.float64),
    (torch.float32, torch.bfloat16),
    (torch.float16, torch.float32),
    (torch.float16, torch.bfloat16, torch.float32, torch.float64),
)
_DEVICES = (("cpu", "cuda"),) if torch.cuda.device_count() else ()
_KINDS = (
    *(tuple({"dtype": dtype} for dtype in dtypes) for dtypes in _DTYPES),
    *(tuple({"device": device} for device in devices) for devices in _DEVICES),
)

CASES = (
    Case(
        defect="a group is stepped by another's settings",
        body=groups_keep_their_settings,
        settings=(
            {"name": "lr", "values": (0.1, 0.01), "more": {}},
            {"name": "weight_decay", "values": (0.1, 0.0), "more": {}},
            {"name": "momentum", "values": (0.9, 0.5), "more": {}},
            {"name": "momentum", "values": (0.0, 0.9), "more": {}},
            {"name": "nesterov", "values": (False, True), "more": {"momentum": 0.9}},
            {"name": "dampening", "values": (0.0, 0.5), "more": {"momentum": 0.9}},
        ),
        torch_only=True,
        may_refuse=True,
    ),
    Case(
        defect="a group added later is stepped otherwise",
        body=later_group_starts_afresh,
        settings=WITH_CHANGES,
        torch_only=True,
    ),
    Case(
        defect="dtypes or devices of one group are mixed up",
        body=kinds_share_a_group,
        settings=tuple({"kinds": kinds} for kinds in _KINDS),
        may_refuse=True,
    ),
    Case(
        defect="the result depends on the grouping",
        body=grouping_does_not_matter,
        settings=WITH_CHANGES,
    ),
    Case(
        defect="the result depends on the order of the parameters",
        body=order_does_not_matter,
        settings=WITH_CHANGES,
    ),
)
