"""Writing files whole or not at all: what was there stays until what replaces it is on the disk."""

import os
import re
import secrets
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sgdm.errors import FileError

__all__ = ["append_line", "check_place", "unfinished", "write_atomically", "write_together"]

_Write = Callable[[BinaryIO], object]


def write_atomically(path: Path, write: _Write) -> None:
    """Write a file beside its place, flush it to the disk, and rename it into its place.

    Args:
        path: The file to make or to replace; behind a symbolic link, what it points at.
        write: Called with the open file.

    Raises:
        FileError: If the disk is full, or the place cannot be written. The file that was there is
            as it was.
    """
    write_together([(path, write)])


def write_together(files: Sequence[tuple[Path, _Write]]) -> None:
    """Write files that belong together: none takes its place before all are on the disk.

    Args:
        files: As for `write_atomically`, in the order in which they take their places.

    Raises:
        FileError: If one cannot be written. The files that were there are as they were.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for path, write in files:
            with _naming(path):
                place = _place(path)
                beside = place.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
                # "x": nobody who may write here has put a link of that name in its place.
                with beside.open("xb") as file:
                    staged.append((beside, place))
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
        for beside, place in staged:
            with _naming(place):
                beside.replace(place)
                _flush_directory(place.parent)
    except BaseException:
        for beside, _ in staged:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
        raise


def check_place(path: Path) -> None:
    """Refuse a path that no file can be written to: a folder, a pipe, no path at all.

    Raises:
        FileError: If it is one.
    """
    with _naming(path):
        _place(path)


def unfinished(path: Path) -> list[Path]:
    """Return what processes that were killed while they wrote this file have left beside it."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp")
    return sorted(file for file in path.parent.iterdir() if name.fullmatch(file.name))


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file and flush it to the disk.

    Raises:
        FileError: If it cannot be written.
    """
    with _naming(path), path.open("a", encoding="utf-8", newline="") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Turn what the disk refuses into an error with the name of the file."""
    try:
        yield
    except Exception as error:
        if _is_of_the_disk(error):
            raise _cannot_write(path, error) from error
        raise


def _place(path: Path) -> Path:
    """Return the file that is meant, behind symbolic links."""
    if "\0" in str(path):
        raise FileError(f"{str(path)!r} cannot be written (it is no path); choose another place")
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        raise FileError(f"{path} cannot be written (it is no regular file); choose another place")
    return place


def _flush_directory(directory: Path) -> None:
    """Make a rename last: the directory is a file too."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_of_the_disk(error: BaseException) -> bool:
    if isinstance(error, FileError):  # of a file that is read meanwhile
        return False
    # torch.save turns what its file object raised into a RuntimeError of its own.
    return isinstance(error, OSError) or isinstance(_cause(error), OSError)


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or error.__context__


def _cannot_write(path: Path, error: BaseException) -> FileError:
    cause = error if isinstance(error, OSError) else _cause(error)
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)
    return FileError(f"{path} cannot be written ({reason}); make room or choose another place")
