"""The lock of a run's folder, which keeps other runs out while one is at work.

It is on a file beside the folder, since the folder itself is replaced. The kernel releases it,
however its holder ends: what a killed run leaves is a file that keeps nobody out.
"""

import errno
import os
import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sgdm.errors import FileError

if sys.platform != "win32":
    import fcntl

__all__ = ["locked"]

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without them says

# By lock file: its descriptor, and the thread that holds it.
_held: dict[Path, tuple[int, int]] = {}


@contextmanager
def locked(place: Path, argument: str) -> Generator[None]:
    """Keep other runs out of a folder; within, the thread that does so may ask again.

    Args:
        place: The folder, which need not be there; the one around it must.
        argument: What named it.

    Raises:
        FileError: If another run is at work in it.
        OSError: If the lock's file cannot be written.
    """
    if sys.platform == "win32":  # it has no such lock: a second run is not noticed there
        yield
        return
    real = Path(os.path.realpath(place))
    file = real.parent / f".{real.name}.lock"
    thread = threading.get_ident()
    if file in _held and _held[file][1] == thread:
        yield
        return
    descriptor = _acquire(file, place, argument)
    _held[file] = descriptor, thread
    try:
        yield
    finally:
        if _held.pop(file, None) is not None:  # a child that was forked within holds nothing
            _release(file, descriptor)


def _acquire(file: Path, place: Path, argument: str) -> int:
    while True:
        with ExitStack() as stack:
            # No link that somebody has put there is followed.
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            stack.callback(os.close, descriptor)
            if not _lock(descriptor):
                holder = os.read(descriptor, 20).decode(errors="replace").strip()
                raise FileError.of(
                    argument,
                    "a folder that no other run is at work in",
                    str(place),
                    f"process {holder or 'unknown'} is: wait for it, stop it, or name another one",
                )
            if _is_at(file, descriptor):  # its last holder may have removed it meanwhile
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                stack.pop_all()
                return descriptor


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:  # where it has none, it is as on Windows
            raise
    return True


def _release(file: Path, descriptor: int) -> None:
    with suppress(OSError):
        if _is_at(file, descriptor):
            file.unlink()
    os.close(descriptor)


def _is_at(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _forget() -> None:
    """Close what a forked child has of the locks: it would hold them as long as it lives."""
    for descriptor, _ in _held.values():
        os.close(descriptor)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)
