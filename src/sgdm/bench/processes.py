"""Processes on this machine that measure something together, over torch's gloo."""

from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from sgdm.bench.measure import Timing, take_turns
from sgdm.bench.rivals import Step

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

__all__ = ["in_processes", "take_turns_together"]

_Timings = dict[str, Timing]


def in_processes(count: int, measure: Callable[..., _Timings], *args: Any) -> _Timings:
    """Run measure(*args) in new processes of one thread each, and return what the first one did.

    Args:
        count: How many processes.
        measure: A function of a module, which uses the default group.
        args: Its arguments.

    Raises:
        torch.multiprocessing.ProcessRaisedException: What one of them raised; the others are ended.
    """
    answers: SimpleQueue[_Timings] = get_context("spawn").SimpleQueue()
    with TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        torch.multiprocessing.spawn(_serve, (count, store, answers, measure, args), nprocs=count)
        return answers.get()


def take_turns_together(
    steps: Mapping[str, Step], *, rounds: int, seconds: float, sample: float
) -> dict[str, Timing]:
    """Time what all processes of the default group do at once; what counts is the slowest of them.

    Args:
        steps: What to time, by name; the same on all of them.
        rounds: How many samples to take of each.
        seconds: After how much time of samples to stop all the same.
        sample: Seconds that a sample should take at least. Long ones are rarely undisturbed, for
            all processes must be running; in short ones the first step, after another contestant's,
            counts for more.
    """
    timings = take_turns(
        list(steps.values()),
        rounds=rounds,
        seconds=seconds,
        sample=sample,
        longest=_longest_of_all,
    )
    return dict(zip(steps, timings, strict=True))


def _longest_of_all(seconds: float) -> float:
    longest = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    return longest.item()


def _serve(
    rank: int,
    count: int,
    store: str,
    answers: "SimpleQueue[_Timings]",
    measure: Callable[..., _Timings],
    args: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, count), rank=rank, world_size=count)
    timings = measure(*args)
    if rank == 0:
        answers.put(timings)
    dist.barrier()
    dist.destroy_process_group()
