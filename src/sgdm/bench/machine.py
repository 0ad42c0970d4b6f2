"""Where and when a benchmark ran."""

import platform
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch

from sgdm.bench.results import Machine
from sgdm.errors import InvalidValueError
from sgdm.version import __version__

__all__ = ["this_machine", "using_threads"]


def this_machine() -> Machine:
    """Return what runs here and now."""
    return Machine(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        sgdm=__version__,
        torch=str(torch.__version__),
        python=platform.python_version(),
        cpu=_cpu_model(),
        threads=torch.get_num_threads(),
        capability=torch.backends.cpu.get_cpu_capability(),
    )


@contextmanager
def using_threads(threads: int | None) -> Generator[None]:
    """Have torch use so many threads for a while; None leaves it as it is.

    Raises:
        InvalidValueError: If there are none.
    """
    if threads is not None and threads < 1:
        raise InvalidValueError.of("threads", "at least 1", threads, "leave it out for torch's own")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
