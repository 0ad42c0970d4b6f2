"""Several processes of this command on this machine: started together, ended together."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import typer

from sgdm.training.environment import LAUNCHER, RENDEZVOUS

__all__ = ["LOST", "launch"]

LOST = 75  # the exit status of a process that was left by another, which is at fault

_PATIENCE = 10.0  # seconds for the others to end by themselves, after the first that failed
_LOOK = 0.02


def launch(count: int, command: Sequence[str]) -> int:
    """Run a command in so many processes, which share its work.

    The first is what a person sees. Ctrl-C, SIGTERM and SIGHUP are passed on to all.

    Args:
        count: How many.
        command: The program and its arguments, which joins the others.

    Returns:
        The exit status: that of the process which failed first of itself, whose last words are
        printed.
    """
    with tempfile.TemporaryDirectory(prefix="sgdm-train-") as name:
        folder = Path(name)
        processes: list[subprocess.Popen[bytes]] = []
        with _noted_signals() as noted:
            try:
                for rank in range(count):
                    processes.append(_start(command, rank, count, folder))  # noqa: PERF401 - some may fail
                stopped = _wait(processes, noted)
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
        return _outcome([p.returncode for p in processes], stopped, folder)


def _start(
    command: Sequence[str], rank: int, count: int, folder: Path
) -> "subprocess.Popen[bytes]":
    threads = max(1, (os.cpu_count() or 1) // count)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        LAUNCHER: str(os.getpid()),
        RENDEZVOUS: (folder / "rendezvous").as_uri(),
    }
    # In sessions of their own, where the terminal's Ctrl-C comes from here, and once.
    start = partial(subprocess.Popen[bytes], command, env=environment, start_new_session=True)
    if rank == 0:
        return start()
    with _words(folder, rank).open("wb") as words:
        return start(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words)


def _words(folder: Path, rank: int) -> Path:
    return folder / f"stderr-{rank}"


@contextmanager
def _noted_signals() -> Generator[list[int]]:
    """Collect what is to be passed on, also before all processes are started."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler
        noted.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup's
        numbers.append(signal.SIGHUP)
    previous = [(number, signal.signal(number, note)) for number in numbers]
    try:
        yield noted
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


def _wait(processes: "Sequence[subprocess.Popen[bytes]]", noted: list[int]) -> set[int]:
    """Wait for all to end, passing signals on; return the ranks of those that had to be stopped.

    A process that fails leaves the others waiting for it: they notice, or are not waited for.
    """
    deadline = float("inf")
    while running := [rank for rank, p in enumerate(processes) if p.poll() is None]:
        while noted:
            number = noted.pop(0)
            for process in processes:
                process.send_signal(number)
        if time.monotonic() > deadline:
            for rank in running:
                processes[rank].kill()
            return set(running)
        if any(process.returncode for process in processes):
            deadline = min(deadline, time.monotonic() + _PATIENCE)
        time.sleep(_LOOK)
    return set()


def _outcome(statuses: Sequence[int], stopped: set[int], folder: Path) -> int:
    failed = [rank for rank, status in enumerate(statuses) if status and rank not in stopped]
    if not failed:
        return 0
    rank = min(failed, key=lambda rank: (statuses[rank] == LOST, rank))
    status = statuses[rank]
    if rank:
        typer.echo(_words(folder, rank).read_text(errors="replace"), err=True, nl=False)
    if status >= 0:
        return status
    if -status == signal.SIGINT:  # pressed twice
        raise KeyboardInterrupt
    typer.echo(
        f"sgdm: process {rank} of {len(statuses)} was killed by {signal.Signals(-status).name}, "
        "and the others were stopped; go on from what was saved, with --resume",
        err=True,
    )
    return 128 - status
