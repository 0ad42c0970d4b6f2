"""Worth knowing, and no defects: what a step costs in memory, and in digits."""

from collections.abc import Callable
from typing import Any

import torch

from sgdm.audit.case import Case
from sgdm.audit.cases.changes import WITH_CHANGES

__all__ = ["CASES"]


def step_needs_no_second_model(make: Callable[..., Any], changes: dict[str, Any]) -> None:
    """Of the second step, counted back from its end: what stays is state, not given back."""
    ps = [torch.nn.Parameter(torch.ones(1000)) for _ in range(8)]
    optimizer = make(ps, **changes)
    torch.stack([p.sum() for p in ps]).sum().backward()
    optimizer.step()
    with torch.profiler.profile(profile_memory=True) as profile:
        optimizer.step()
    events = vars(profile)["profiler"].kineto_results.events()
    times = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    peak = int(torch.tensor([0, *(-n for _, n in reversed(times))]).cumsum(0).max()) / 32_000
    assert peak < 1, f"a step takes {peak:.1f} times the parameters' memory, and gives it back"


def sixteen_bits_keep_moving(make: Callable[..., Any], dtype: torch.dtype) -> None:
    """The parameter is put back to 0: only the buffer, on its way from 270, can lose digits."""
    ends = list[float]()
    for kind in (torch.float32, dtype):
        p = torch.nn.Parameter(torch.zeros(8, dtype=kind))
        optimizer = make([p], momentum=0.998)
        for step in range(100):
            torch.nn.init.zeros_(p)
            p.grad = torch.full_like(p, 1.0 if step else 270.0)
            optimizer.step()
        ends.append(float(p.detach().abs().mean()))
    assert ends[1] > 0.9 * ends[0], f"with {dtype} the buffer stalls at {ends[1] / ends[0]:.0%}"


CASES = (
    Case(
        defect="a step takes temporary memory of the parameters' size",
        body=step_needs_no_second_model,
        settings=WITH_CHANGES,
        torch_only=True,
        may_refuse=True,
        note=True,
    ),
    Case(
        defect="a 16-bit buffer stalls",
        body=sixteen_bits_keep_moving,
        settings=({"dtype": torch.bfloat16}, {"dtype": torch.float16}),
        needs=("momentum",),
        may_refuse=True,
        note=True,
    ),
)
