"""Between tensors and the bytes of a file, without a copy."""

import ctypes
import math
from collections.abc import Callable, Sequence
from io import BufferedIOBase
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from sgdm.convert.checkpoint import Stored, broken

__all__ = [
    "Patch",
    "in_order",
    "read_into",
    "read_tensor",
    "size_in_bytes",
    "tensor_of",
    "view_of",
    "write_patched",
    "write_tensor",
]

_CHUNK = 1 << 24
_SHRUNK = "it has become shorter"


class Patch(NamedTuple):
    """What takes the place of a range of a file.

    Attributes:
        start: Where the range begins.
        end: Where it ends; at `start` to put something in.
        write: Writes what comes there, of any length.
    """

    start: int
    end: int
    write: Callable[[BinaryIO], object]


def size_in_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return how many bytes a contiguous tensor takes."""
    return math.prod(shape) * dtype.itemsize


def tensor_of(data: bytearray, dtype: torch.dtype) -> Tensor:
    """Return a tensor of one axis that owns these bytes."""
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def view_of(name: str, stored: Stored) -> tuple[memoryview, Tensor]:
    """Return the bytes of a tensor, and the tensor, which has to live as long as they are used.

    Raises:
        ValueError: If it is not what was announced, and so what the file already says of it.
    """
    tensor = stored.read().detach()
    if tuple(tensor.shape) != stored.shape or tensor.dtype != stored.dtype:
        raise ValueError(
            f"{name} must be {stored.dtype} of shape {stored.shape}, as announced, got "
            f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    tensor = tensor.resolve_conj().resolve_neg().contiguous()
    size = size_in_bytes(stored.shape, stored.dtype)
    # Without numpy, which torch does not require, only the address leads to a tensor's bytes.
    array = (ctypes.c_ubyte * size).from_address(tensor.data_ptr()) if size else bytearray()
    return memoryview(array).cast("B"), tensor


def read_tensor(
    file: BufferedIOBase,
    path: Path,
    parts: Sequence[tuple[int, int]],
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> Tensor:
    """Return the tensor whose elements lie in these ranges of a file, one after the other.

    Args:
        file: Open for reading.
        path: Its name, for errors.
        parts: From which byte to which; together they are as long as the tensor.
        shape: Of the tensor.
        dtype: Of its elements.

    Raises:
        FileError: If the file has become shorter.
    """
    data = bytearray(size_in_bytes(shape, dtype))
    rest = memoryview(data)
    for start, end in parts:
        file.seek(start)
        if not read_into(file, rest[: end - start]):
            raise broken(path, f"byte {start}", _SHRUNK)
        rest = rest[end - start :]
    return tensor_of(data, dtype).reshape(shape)


def read_into(file: BufferedIOBase, view: memoryview) -> bool:
    """Fill a view from where the file stands; return whether the file was long enough."""
    done = 0
    while done < len(view):
        got = file.readinto(view[done : done + _CHUNK])
        if not got:
            return False
        done += got
    return True


def write_tensor(name: str, stored: Stored, file: BinaryIO) -> None:
    """Write the elements of a tensor.

    Raises:
        ValueError: If it is not what was announced.
    """
    view, _tensor = view_of(name, stored)  # the second keeps alive what the first looks at
    file.write(view)


def in_order(path: Path, patches: Sequence[Patch]) -> list[Patch]:
    """Return patches of a file as they come in it.

    Raises:
        FileError: If two of them meet.
    """
    ordered = sorted(patches, key=lambda patch: patch[:2])
    for patch, after in pairwise(ordered):
        if after.start < patch.end:
            raise broken(path, f"byte {after.start}", "two of its tensors overlap")
    return ordered


def write_patched(
    target: Any,
    source: BufferedIOBase,
    path: Path,
    patches: Sequence[Patch],
    *,
    within: tuple[int, int] | None = None,
) -> None:
    """Write a copy of a file in which some ranges are replaced.

    Args:
        target: Open for writing.
        source: Open for reading.
        path: Its name, for errors.
        patches: What is replaced by what; no two may meet.
        within: What is copied, from which byte to which; None for the whole file.

    Raises:
        FileError: If ranges overlap, or the file becomes shorter meanwhile.
    """
    at, end = within or (0, source.seek(0, 2))
    for patch in in_order(path, patches):
        _copy(target, source, path, at, patch.start)
        patch.write(target)
        at = patch.end
    _copy(target, source, path, at, end)


def _copy(target: Any, source: BufferedIOBase, path: Path, at: int, end: int) -> None:
    source.seek(at)
    while at < end:
        chunk = source.read(min(_CHUNK, end - at))
        if not chunk:
            raise broken(path, f"byte {at}", _SHRUNK)
        target.write(chunk)
        at += len(chunk)
