"""What it takes processes to add tensors up: torch's all_reduce, by the bytes of a tensor."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from sgdm.bench.measure import Timing
from sgdm.bench.processes import take_turns_together

if TYPE_CHECKING:
    from sgdm.bench.rivals import Step

__all__ = ["ALL_REDUCE", "ELEMENTS", "time_all_reduce"]

ALL_REDUCE = "all_reduce"
ELEMENTS = tuple(4**k for k in range(1, 13))  # of float32: from 16 bytes, a norm's, to 64 MiB

_SAMPLE = 1e-3


def time_all_reduce(elements: Sequence[int], rounds: int, seconds: float) -> dict[str, Timing]:
    """Time the sum of a float32 tensor over the processes of the default group, for each length.

    Args:
        elements: The lengths.
        rounds: Samples of each.
        seconds: After how long to stop all the same.

    Returns:
        The timings, by the length as text.
    """
    steps: dict[str, Step] = {
        str(count): partial(dist.all_reduce, torch.zeros(count)) for count in elements
    }
    return take_turns_together(steps, rounds=rounds, seconds=seconds, sample=_SAMPLE)
