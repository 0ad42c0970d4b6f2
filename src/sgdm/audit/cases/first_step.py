"""The buffer starts from zero or from the gradient, and for every parameter alike."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sgdm.audit.case import Case

__all__ = ["CASES"]


def the_buffer_starts_from_nothing(make: Callable[..., Any]) -> None:
    """Without gradient and decay there is nothing to move for."""
    from contextlib import suppress

    p, q = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    p.grad, q.grad = torch.ones_like(p), torch.zeros_like(q)
    for x in (p, q):
        optimizer = make([x], momentum=0.9)
        with suppress(Exception):
            optimizer = make([x], momentum=0.9, weight_decay=0.0)
        for _ in range(2):
            optimizer.step()
    assert abs(1 - q[0, 0]) <= abs(1 - p[0, 0]) / 5, f"two zero gradients take 1 to {q[0, 0]:g}"


def first_steps_are_alike(make: Callable[..., Any], n: int, more: Mapping[str, Any]) -> None:
    params = [torch.nn.Parameter(torch.ones(4, 4)) for _ in range(n)]
    optimizer = make(params, **more)
    for p in params:
        p.grad = torch.ones_like(p)
    for _ in range(2):
        optimizer.step()
    ends = [p[0, 0].item() for p in params]
    a, b = min(ends), max(ends)
    assert b - a <= 0.01 * abs(1 - ends[0]), f"{n} equal parameters became {a:.7g} to {b:.7g}"


CASES = (
    Case(
        defect="the buffer starts from the weights, or from garbage",
        body=the_buffer_starts_from_nothing,
        needs=("momentum",),
        may_refuse=True,  # a gradient of zeros is another theme
    ),
    Case(
        defect="parameters start in different ways",
        body=first_steps_are_alike,
        settings=(
            {"n": 3, "more": {}},
            {"n": 3, "more": {"momentum": 0.9}},
            {"n": 3, "more": {"momentum": 0.9, "dampening": 0.5}},
            {"n": 400, "more": {}},
        ),
    ),
)
