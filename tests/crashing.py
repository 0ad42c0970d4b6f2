"""How a run ends before its end: the machine stops, the disk is full, or a signal comes."""

import os
import resource
import shutil
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sgdm.training.observer import Observer


class CrashError(BaseException):
    """The machine stops here: nothing after this happens."""


@contextmanager
def crashing_at(moment: int) -> Generator[None]:
    """Stop at that moment, of those before and after every rename and flush, counted from 0."""
    count = 0

    def pass_moment() -> None:
        nonlocal count
        if count == moment:
            raise CrashError(moment)
        count += 1

    def watched(operation: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any) -> Any:
            pass_moment()
            result = operation(*arguments)
            pass_moment()
            return result

        return write

    with pytest.MonkeyPatch.context() as patch:
        for place, name in ((Path, "replace"), (Path, "rename"), (os, "fsync")):
            patch.setattr(place, name, watched(getattr(place, name)))
        # The dead clean nothing up.
        patch.setattr(Path, "unlink", lambda *a, **k: None)
        patch.setattr(shutil, "rmtree", lambda *a, **k: None)
        yield


@contextmanager
def no_room(size: int) -> Generator[None]:
    """No file that this process writes may grow beyond so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class StopAfter(Observer):
    """Interrupts this process, as Ctrl-C does, after so many steps."""

    def __init__(self, steps: int, number: int = signal.SIGINT) -> None:
        self.left, self.number = steps, number

    def stepped(self, batch) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
