"""What the memory can do: the traffic of a step, and nothing computed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sgdm.bench.cases import Case
from sgdm.bench.rivals import Step

__all__ = ["bare_loop"]


def bare_loop(case: Case, start: Sequence[Tensor], gradients: Sequence[Tensor]) -> Step:
    """Return what moves the bytes of one of sgdm's steps, on tensors of its own.

    Args:
        case: What is stepped.
        start: Its parameters; copied.
        gradients: One a parameter; only read.
    """
    params = [p.clone() for p in start]
    buffers = [p.to(torch.float32, copy=True) for p in start]
    averages = [p.clone() for p in start] if case.rule.is_recipe else []
    read_write, read = [*params, *buffers, *averages], list(gradients)

    def step() -> None:
        if case.rule.is_recipe:
            _bare_pass([], read)  # for the norm, which is known before anything is written
        _bare_pass(read_write, read)

    return step


def _bare_pass(read_write: list[Tensor], read: list[Tensor]) -> None:
    """Read everything, and write back what `read_write` holds."""
    if not read_write:
        for x in read:
            x.sum()
        return
    for x, y in zip(read_write, read, strict=False):
        x.add_(y, alpha=0)
    for x in read_write[len(read) :]:
        x.mul_(1)
