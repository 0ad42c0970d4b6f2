"""The wire format of protobuf: where the fields of a message lie, and how one is written.

Not by the protobuf library, which parses a file into memory whole, and has no message without a
compiled definition. A field is a number, a kind and a value or a length: a page of code, in which a
tensor stays where it is until it is asked for.
"""

import struct
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

from sgdm.convert.checkpoint import broken
from sgdm.errors import FileError

__all__ = ["BYTES", "Field", "Messages", "head_of", "varint", "varint_field"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_MOST_FIELDS = 1_000_000
_LONGEST_TEXT = 4096


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        number: What the definition calls it by.
        kind: `VARINT`, `FIXED64`, `BYTES` or `FIXED32`.
        value: Of a varint; else 0.
        begin: Where it begins, with its number.
        start: Where its content does.
        end: Where that ends.
    """

    number: int
    kind: int
    value: int
    begin: int
    start: int
    end: int


class Messages:
    """An open file of protobuf.

    Attributes:
        path: Its name, for errors.
        file: Where it is read.
        size: How long it is.
    """

    def __init__(self, path: Path, file: BufferedIOBase) -> None:
        self.path, self.file = path, file
        self.size = file.seek(0, 2)
        self._left = _MOST_FIELDS

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """Yield the fields of the message that lies there.

        Raises:
            FileError: If it is no message.
        """
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise self.broken(at, f"it has more than {_MOST_FIELDS} fields")
            tag, content = self._varint(at, end)
            number, kind = tag >> 3, tag & 7
            value, stop = 0, content
            if kind == VARINT:
                value, stop = self._varint(content, end)
            elif kind == BYTES:
                length, content = self._varint(content, end)
                stop = content + length
            elif kind in (FIXED32, FIXED64):
                stop = content + (4 if kind == FIXED32 else 8)
            if number == 0 or kind not in (VARINT, FIXED64, BYTES, FIXED32):
                raise self.broken(at, f"no field begins with {tag}")
            if stop > end:
                raise self.broken(at, f"field {number} is to end at {stop}, its message at {end}")
            yield Field(number, kind, value, at, content, stop)
            at = stop

    def varints(self, field: Field) -> Iterator[int]:
        """Yield the integers of a repeated field, packed or one alone."""
        if field.kind == VARINT:
            yield field.value
            return
        at = field.start
        while at < field.end:
            value, at = self._varint(at, field.end)
            yield value

    def floats(self, field: Field) -> tuple[float, ...]:
        """Return the few numbers of a repeated field of floats, packed or one alone."""
        size = field.end - field.start
        if size % 4 or size > _LONGEST_TEXT or field.kind not in (FIXED32, BYTES):
            raise self.broken(field.begin, f"field {field.number} should be of a few floats")
        data = self._read(field.start, size)
        return struct.unpack(f"<{len(data) // 4}f", data)

    def text(self, field: Field) -> str:
        """Return the text of a field."""
        if field.kind != BYTES or field.end - field.start > _LONGEST_TEXT:
            raise self.broken(field.begin, f"field {field.number} should be a short text")
        try:
            return self._read(field.start, field.end - field.start).decode()
        except UnicodeDecodeError as error:
            raise self.broken(field.start, f"field {field.number} is no text") from error

    def broken(self, at: int, problem: str, remedy: str = "take an intact copy") -> FileError:
        """Return the error of this file."""
        return broken(self.path, f"byte {at}", problem, remedy)

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the integer that lies there, and where it ends."""
        value = 0
        for shift, byte in enumerate(self._read(at, min(10, end - at))):
            value |= (byte & 0x7F) << 7 * shift
            if byte < 0x80:
                return value % 2**64, at + shift + 1
        raise self.broken(at, "a number without an end")

    def _read(self, at: int, count: int) -> bytes:
        self.file.seek(at)
        data = self.file.read(count)
        if len(data) != count:
            raise self.broken(at, "the file has become shorter")
        return data


def varint(value: int) -> bytes:
    """Return an integer that is not negative as protobuf writes it."""
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def varint_field(number: int, value: int) -> bytes:
    """Return a field that is an integer."""
    return varint(number << 3 | VARINT) + varint(value)


def head_of(number: int, length: int) -> bytes:
    """Return what goes before the content of a field of bytes."""
    return varint(number << 3 | BYTES) + varint(length)
