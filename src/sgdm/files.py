"""Writing files whole or not at all: what was there stays until what replaces it is on the disk."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sgdm.errors import FileError

__all__ = ["append_line", "write_atomically"]


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside its place, flush it to the disk, and rename it into its place.

    Args:
        path: The file to make or to replace.
        write: Called with the open file.

    Raises:
        FileError: If the disk is full, or the place cannot be written. The file that was there is
            as it was.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _flush_directory(path.parent)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if _is_of_the_disk(error):
            raise _cannot_write(path, error) from error
        raise


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file and flush it to the disk.

    Raises:
        FileError: If it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _cannot_write(path, error) from error


def _flush_directory(directory: Path) -> None:
    """Make a rename last: the directory is a file too."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_of_the_disk(error: BaseException) -> bool:
    # torch.save turns what its file object raised into a RuntimeError of its own.
    return isinstance(error, OSError) or isinstance(_cause(error), OSError)


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or error.__context__


def _cannot_write(path: Path, error: BaseException) -> FileError:
    cause = error if isinstance(error, OSError) else _cause(error)
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)
    return FileError(f"{path} cannot be written ({reason}); make room or choose another place")
