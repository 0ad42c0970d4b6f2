"""What holds no number goes nowhere: a skipped step, memory that nobody wrote."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from sgdm.audit.case import Case
from sgdm.audit.cases.changes import CHANGES
from sgdm.audit.isolated import isolated

__all__ = ["CASES"]


@isolated
def overflow_changes_nothing(
    make: Callable[..., Any], gradients: Sequence[float], changes: dict[str, Any]
) -> None:
    """In the deterministic mode torch fills memory that it does not initialise with NaN."""
    torch.set_deterministic_debug_mode("warn")
    p, q = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    for x, numbers in ((p, [1, 2, 3]), (q, gradients)):
        optimizer, scaler = make([x], **changes), torch.amp.GradScaler("cpu", init_scale=1.0)
        for number in numbers:
            x.grad = None
            scaler.scale((x * number).sum()).backward()
            scaler.step(optimizer)
            scaler.update(1.0)
    assert torch.allclose(p, q, equal_nan=True), f"an overflow turns {p[0]:.9g} into {q[0]:.9g}"


@isolated
def memory_is_initialised(make: Callable[..., Any], n: int, changes: dict[str, Any]) -> None:
    """In the deterministic mode torch fills memory that it does not initialise with NaN."""
    torch.set_deterministic_debug_mode("warn")
    p = torch.nn.Parameter(torch.ones(n))
    optimizer = make([p], **changes)
    for step in range(3):
        p.grad = torch.full_like(p, step + 1.0)
        optimizer.step()
        found = int(p.isnan().sum())
        assert found == 0, f"step {step + 1} put uninitialised memory into {found} of {n} elements"


CASES = (
    Case(
        defect="a step that overflowed changes something",
        body=overflow_changes_nothing,
        settings=tuple(
            {"gradients": gradients, "changes": c}
            for c in CHANGES
            for gradients in ([1e39, 1, 2, 3], [1, 1e39, 2, 3], [1, 2, 1e39, 3])
        ),
        torch_only=True,
    ),
    Case(
        defect="uninitialised memory is used",
        body=memory_is_initialised,
        settings=tuple({"n": n, "changes": c} for c in CHANGES for n in (1, 64, 1000)),
    ),
)
