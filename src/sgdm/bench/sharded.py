"""What a step of sharded parameters takes, beside a step of a whole copy in every process."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from sgdm.bench.measure import Timing
from sgdm.bench.processes import take_turns_together
from sgdm.bench.rivals import Step
from sgdm.optimizer import SGD

__all__ = [
    "CASES",
    "CLIPPED_SHARDS",
    "CLIPPED_WHOLE",
    "SHARDS",
    "TORCH_SHARDS",
    "TORCH_WHOLE",
    "WHOLE",
    "time_steps",
]

# Tensors, and elements of each: three where bookkeeping is all, one where memory is.
CASES = ((500, 64), (500, 256), (500, 1024), (8, 2_000_000))

WHOLE, SHARDS = "sgdm, whole", "sgdm, shards"
CLIPPED_WHOLE, CLIPPED_SHARDS = "sgdm clipped, whole", "sgdm clipped, shards"
TORCH_WHOLE, TORCH_SHARDS = "torch foreach, whole", "torch foreach, shards"
_OWN = {"lr": 1e-3, "momentum": 0.9}
_CLIPPED = {**_OWN, "max_grad_norm": 1.0}
_FOREACH = {**_OWN, "foreach": True}
_SAMPLE = 5e-3


class _Squares(nn.Module):
    """Parameters, and a loss that gives every one a gradient."""

    def __init__(self, tensors: int, elements: int) -> None:
        super().__init__()
        drawn = (nn.Parameter(torch.randn(elements)) for _ in range(tensors))
        self.params = nn.ParameterList(drawn)

    def forward(self) -> Tensor:
        return torch.stack([p.square().sum() for p in self.params]).sum()


def time_steps(tensors: int, elements: int, rounds: int, seconds: float) -> dict[str, Timing]:
    """Time steps with momentum on every process of the default group at once.

    A copy of the parameters in each is what DistributedDataParallel steps; a shard of each
    parameter is what `fully_shard` leaves. Clipping makes processes with shards wait for each
    other; nothing else does.

    Args:
        tensors: How many parameters.
        elements: How many numbers each of them holds.
        rounds: Samples of each contestant.
        seconds: After how long to stop all the same.

    Returns:
        The timings, by contestant.
    """
    whole, shards = _Squares(tensors, elements), _Squares(tensors, elements)
    fully_shard(shards, mesh=init_device_mesh("cpu", (torch.distributed.get_world_size(),)))
    for model in (whole, shards):
        model().backward()
    contestants = {
        WHOLE: _stepping(SGD, whole, _OWN),
        SHARDS: _stepping(SGD, shards, _OWN),
        CLIPPED_WHOLE: _stepping(SGD, whole, _CLIPPED),
        CLIPPED_SHARDS: _stepping(SGD, shards, _CLIPPED),
        TORCH_WHOLE: _stepping(torch.optim.SGD, whole, _FOREACH),
        TORCH_SHARDS: _stepping(torch.optim.SGD, shards, _FOREACH),
    }
    return take_turns_together(contestants, rounds=rounds, seconds=seconds, sample=_SAMPLE)


def _stepping(
    kind: Callable[..., torch.optim.Optimizer], model: nn.Module, settings: dict[str, Any]
) -> Step:
    optimizer = kind(model.parameters(), **settings)
    optimizer.step()  # which makes its state
    return optimizer.step
