"""Pickled estimators without executing: records in the place of objects, arrays left in the file.

The data of an array stays a `Block`, a place in the file: so a tensor is read when it is asked for,
and a copy of the file with other numbers at that place is a valid pickle of the same.
"""

from dataclasses import dataclass
from io import BufferedIOBase
from typing import IO, Any, cast

from sgdm.convert.inert_pickle import Inert, interpret
from sgdm.convert.not_understood import NotUnderstood

__all__ = ["Block", "from_pickle"]


_PROTOCOLS = (b"\3", b"\4", b"\5")  # older ones have no bytes, but calls that make them
_REMEDY = "load it with what wrote it and pickle.dump it with protocol 3, 4 or 5"
# By joblib, or a program: zlib, gzip, bz2, xz, lzma, lz4.
_COMPRESSED = (b"x", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"]\0\0", b'\4"M\x18')


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes in the file.

    Attributes:
        start: Where the first is.
        size: How many.
        head: The first eight, enough for a number.
    """

    start: int
    size: int
    head: bytes


def from_pickle(file: BufferedIOBase) -> Any:
    """Return what a pickle of protocol 3 or later holds: plain data, `Inert` and `Block`.

    Raises:
        NotUnderstood: If it is of another protocol, compressed, or a file of joblib's.
        Exception: Of any kind, if it is no pickle.
    """
    head = file.read(6)
    if head.startswith(_COMPRESSED):
        raise NotUnderstood("it is compressed", "load it with joblib and pickle.dump it")
    if head[:1] != b"\x80" or head[1:2] not in _PROTOCOLS:
        raise NotUnderstood("it is no pickle of protocol 3 to 5", _REMEDY)
    return interpret(cast("IO[bytes]", _Bounded(file)), _find_class, load_bytes=_block)


def _find_class(name: str) -> Inert:
    if name.startswith("joblib"):
        raise NotUnderstood(
            "it is a file of joblib's, which is not quite a pickle",
            "load it with joblib and pickle.dump it",
        )
    return Inert(name)


def _block(data: bytes, start: int) -> Block:
    return Block(start, len(data), bytes(data[:8]))


class _Bounded:
    """A file that is asked for no more than it has: its reader believes every length."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        file.seek(0)

    def read(self, count: int) -> bytes:
        if count > self._size - self._file.tell():
            raise ValueError(f"{count} bytes are announced, and the file ends before")
        return self._file.read(count)

    def readline(self) -> bytes:
        return self._file.readline(1000)

    def tell(self) -> int:
        return self._file.tell()
