"""Processes of one run, kept from test to test: starting one loads torch, which takes seconds.

A function that they run is a function of a test module. It is given a new process group, and what
it returns, or raises, comes back.
"""

import multiprocessing as mp
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_LARGEST = 4
_SECONDS = 120  # that a function may take


class World:
    def __init__(self, folder: Path) -> None:
        self._folder = folder  # where they meet
        self._members: list[tuple[Any, Connection]] = []
        self._runs = 0

    def run(self, size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Run function(*args) in `size` processes and return what each of them returned."""
        assert size <= _LARGEST
        if not self._members:
            context = mp.get_context("spawn")
            for rank in range(_LARGEST):
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(rank, there), daemon=True)
                process.start()
                there.close()
                self._members.append((process, here))
        self._runs += 1
        store = str(self._folder / str(self._runs))
        members = self._members[:size]
        for _, connection in members:
            connection.send((size, store, function, args))
        answers: dict[int, Any] = {}
        while len(answers) < size:
            waiting = {c: i for i, (_, c) in enumerate(members) if i not in answers}
            ready = wait(list(waiting), timeout=_SECONDS)
            if not ready:
                self.close()
                raise AssertionError(f"ranks {sorted(waiting.values())} hang in {function}")
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = waiting[connection]
                try:
                    done, answers[rank] = connection.recv()
                except EOFError:
                    done, answers[rank] = False, "it has ended"
                if not done:  # the others may be waiting for it
                    self.close()
                    raise AssertionError(f"rank {rank}: {answers[rank]}")
        return [answers[rank] for rank in range(size)]

    def close(self) -> None:
        for process, connection in self._members:
            connection.close()
            process.kill()
            process.join()
        self._members.clear()


def _serve(rank: int, connection: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    while True:
        try:
            size, store, function, args = connection.recv()
        except EOFError:
            return
        try:
            shared = dist.FileStore(store, size)
            dist.init_process_group("gloo", store=shared, rank=rank, world_size=size)
            answer = function(*args)
            dist.barrier()
            dist.destroy_process_group()
            connection.send((True, answer))
        except BaseException:  # noqa: BLE001 - it is raised again on the other side
            connection.send((False, traceback.format_exc()))
