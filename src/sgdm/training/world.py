"""What processes that train together do together: add up, agree, and let the first one write.

A process by itself does the same, with nobody, so that a run reads alike in both cases.
"""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from sgdm.errors import InvalidValueError, LostProcessError, SgdmError
from sgdm.training.environment import LAUNCHER, local_rank, own_rank, rendezvous, world_size

__all__ = ["World", "joined"]

_T = TypeVar("_T")


class World:
    """A process by itself.

    Attributes:
        rank: Its number, from 0; the first one writes, prints and draws.
        size: How many processes there are.
    """

    rank = 0
    size = 1

    def __init__(self) -> None:
        self._asked = self._agreed = False

    def begin(self) -> None:
        """Forget, before a run, that one before it was to stop."""
        self._asked = self._agreed = False

    def ask_to_stop(self) -> None:
        """Note, in a signal's handler, that this process is to stop."""
        self._asked = True

    @property
    def stops(self) -> bool:
        """Whether all stop after this step."""
        return self._asked

    def device(self, name: str) -> str:
        """Return the device of this process, where `name` is asked for.

        Raises:
            InvalidValueError: If processes cannot share it.
        """
        return name

    def part(self, count: int) -> slice:
        """Return which of so many examples are this process's: none, if they are too few."""
        each, left_over = divmod(count, self.size)
        start = self.rank * each + min(self.rank, left_over)
        return slice(start, start + each + (self.rank < left_over))

    def total(self, *values: float) -> list[float]:
        """Add up, over all processes, and agree by the way whether to stop."""
        return list(values)

    def by_first(self, action: Callable[[], _T]) -> _T:
        """Let the first process act alone.

        Returns:
            What it returned, in every process.

        Raises:
            SgdmError: What it raised, in every process.
        """
        return action()

    def together(self) -> AbstractContextManager[None]:
        """Leave the block together; or with the error of the first process that has one.

        Nothing within waits for the other processes, but for what all of them reach.
        """
        return nullcontext()

    def check_same(self, values: Mapping[str, object]) -> None:
        """Compare what all processes must have alike.

        Raises:
            InvalidValueError: If something differs; in every process.
        """


class _Processes(World):
    """One of several processes, which meet in torch.distributed's default group."""

    def __init__(self) -> None:
        super().__init__()
        self._launcher = os.environ.get(LAUNCHER)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @property
    def stops(self) -> bool:
        return self._agreed

    def device(self, name: str) -> str:
        if name not in ("cpu", "cuda"):
            raise InvalidValueError.of(
                "device", "'cpu' or 'cuda' for several processes", name, "each has its own of them"
            )
        return name if name == "cpu" else f"cuda:{local_rank()}"

    def total(self, *values: float) -> list[float]:
        asked = self._asked or self._is_orphan()
        summed = torch.tensor([*values, asked], dtype=torch.float64)
        dist.all_reduce(summed)
        totals = cast("list[float]", summed.tolist())
        self._agreed = totals.pop() > 0
        return totals

    def by_first(self, action: Callable[[], _T]) -> _T:
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = action()
            except SgdmError as error:
                outcome[1] = type(error), str(error)
        dist.broadcast_object_list(outcome)
        result, trouble = outcome
        if trouble is not None:
            kind, text = trouble
            raise kind(text)
        return cast("_T", result)

    @contextmanager
    def together(self) -> Generator[None]:
        trouble = None
        try:
            yield
        except SgdmError as error:
            trouble = type(error), str(error)
        for rank, told in enumerate(self._told(trouble)):
            if told is not None:
                kind, text = told
                raise kind(f"process {rank}: {text}" if rank else text)

    def check_same(self, values: Mapping[str, object]) -> None:
        first, *others = self._told({name: repr(value) for name, value in values.items()})
        for rank, other in enumerate(others, 1):
            for name in first:
                if other[name] != first[name]:
                    raise InvalidValueError.of(
                        name,
                        "the same in all processes",
                        f"{first[name]} in process 0 and {other[name]} in process {rank}",
                        "start all of them with one command, on the same data",
                    )

    def _told(self, mine: object) -> list[Any]:
        """Return what every process has to tell."""
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, mine)
        return told

    def _is_orphan(self) -> bool:
        """Whether the command that started this process was killed, and cannot pass signals on."""
        return self._launcher is not None and os.getppid() != int(self._launcher)


@contextmanager
def joined() -> Generator[World]:
    """Join the processes that this one was started with, by torchrun or by `sgdm train --nproc`.

    Raises:
        InvalidValueError: If the environment says in part who they are.
        LostProcessError: If one of the others is gone.
    """
    size = world_size()
    if size == 1:
        yield World()
        return
    rank = own_rank()
    try:
        # Objects and sums meet on the CPU; NCCL is set up by the first tensor of a GPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, init_method=rendezvous(), rank=rank, world_size=size)
        dist.barrier()  # one that leaves at once would leave the others connecting
        yield _Processes()
    except SgdmError:  # all have it
        dist.destroy_process_group()
        raise
    except RuntimeError as error:
        if _is_of_the_connection(error):
            raise LostProcessError(
                f"process {rank} has lost the connection to the others "
                f"({str(error).splitlines()[0]}); go on from what was saved, with --resume"
            ) from error
        raise
    else:
        dist.destroy_process_group()


def _is_of_the_connection(error: RuntimeError) -> bool:
    # Gloo raises plain RuntimeErrors that begin with the place in its source.
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)
