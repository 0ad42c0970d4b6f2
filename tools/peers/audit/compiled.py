"""torch's SGD with a compiled step."""

from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo import config

__all__ = ["CompiledSGD"]

config.recompile_limit = 1024  # one for every optimizer that a case makes


@torch.compile
def _step(optimizer: torch.optim.SGD) -> None:
    torch.optim.SGD.step(optimizer)


class CompiledSGD(torch.optim.SGD):
    """`torch.optim.SGD`; its step is compiled, as torch's own recipe has it."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; the closure is called outside what is compiled."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        _step(self)
        return loss
