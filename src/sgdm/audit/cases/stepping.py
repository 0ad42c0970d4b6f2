"""It steps at all: nothing else is asked of what does not."""

from collections.abc import Callable
from typing import Any

import torch

from sgdm.audit.case import Case

__all__ = ["CASES"]


def it_steps(make: Callable[..., Any]) -> None:
    p = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = make([p])
    p.grad = torch.ones_like(p)
    optimizer.step()


CASES = (Case(defect="it cannot step", body=it_steps),)
