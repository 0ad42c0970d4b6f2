"""Msgpack as flax writes it, one array at a time: new, or a copy with other things in places."""

import struct
from typing import BinaryIO, TypeAlias

from sgdm.convert.checkpoint import Stored
from sgdm.convert.raw import Patch, size_in_bytes, view_of

__all__ = ["Content", "patch_of", "write_content"]

# Of an array's bytes, in one piece: flax's own limit.
_LARGEST_PIECE = 2**30

# What can be written. A tensor is in the file's layout.
Content: TypeAlias = "dict[str, Content] | Stored | float | None"


def write_content(file: BinaryIO, content: Content, place: str = "") -> None:
    """Write a map, an array, a number or nothing.

    Args:
        file: Opened for writing.
        content: What to write.
        place: Where it lies, for messages.
    """
    if isinstance(content, Stored):
        _write_array(file, place, content)
    elif isinstance(content, dict):
        file.write(_head(len(content), (0x80, 16), (0xDE, 0xDF)))
        for key, child in content.items():
            file.write(_text(key))
            write_content(file, child, f"{place}/{key}")
    elif content is None:
        file.write(b"\xc0")
    else:
        file.write(_number(content))


def patch_of(start: int, end: int, content: Content, place: str) -> Patch:
    """Return what puts something else between two bytes.

    This is all it takes, as msgpack's maps say how many entries they have, and not how many bytes.
    """

    def write(file: BinaryIO) -> None:
        write_content(file, content, place)

    return Patch(start, end, write)


def _write_array(file: BinaryIO, place: str, stored: Stored) -> None:
    # `tensor` keeps alive what `view` looks at.
    view, tensor = view_of(place, stored)
    name = str(stored.dtype).removeprefix("torch.")
    size = size_in_bytes(stored.shape, stored.dtype)
    if size <= _LARGEST_PIECE:
        _write_piece(file, stored.shape, name, view)
        return
    step = max(_LARGEST_PIECE // stored.dtype.itemsize, 1) * stored.dtype.itemsize
    pieces = [view[start : start + step] for start in range(0, size, step)]
    sizes: Content = {str(i): n for i, n in enumerate(stored.shape)}
    file.write(_head(3, (0x80, 16), (0xDE, 0xDF)))
    file.write(_text("__msgpack_chunked_array__") + b"\xc3" + _text("shape"))
    write_content(file, sizes)
    file.write(_text("chunks") + _head(len(pieces), (0x80, 16), (0xDE, 0xDF)))
    for i, piece in enumerate(pieces):
        file.write(_text(str(i)))
        _write_piece(file, (len(piece) // tensor.itemsize,), name, piece)


def _write_piece(file: BinaryIO, shape: tuple[int, ...], name: str, view: memoryview) -> None:
    head = b"\x93" + _head(len(shape), (0x90, 16), (0xDC, 0xDD))
    head += b"".join(map(_number, shape)) + _text(name) + _sized(len(view), 0xC4)
    length = len(head) + len(view)
    fixed = {1: b"\xd4", 2: b"\xd5", 4: b"\xd6", 8: b"\xd7", 16: b"\xd8"}
    file.write((fixed.get(length) or _sized(length, 0xC7)) + b"\x01" + head)
    file.write(view)


def _text(text: str) -> bytes:
    data = text.encode()
    return (bytes([0xA0 | len(data)]) if len(data) < 32 else _sized(len(data), 0xD9)) + data


def _sized(length: int, code: int) -> bytes:
    """Return what stands before so many bytes: of three codes in a row the first that fits."""
    if length < 1 << 8:
        return struct.pack(">BB", code, length)
    return struct.pack(*((">BH", code + 1) if length < 1 << 16 else (">BI", code + 2)), length)


def _head(count: int, short: tuple[int, int], codes: tuple[int, int]) -> bytes:
    """Return what stands before so many entries."""
    if count < short[1]:
        return bytes([short[0] | count])
    return struct.pack(*((">BH", codes[0]) if count < 1 << 16 else (">BI", codes[1])), count)


def _number(number: float) -> bytes:
    """Return a float, or a whole number from 0 up, in the fewest bytes."""
    if isinstance(number, float):
        return struct.pack(">Bd", 0xCB, number)
    if number < 0x80:
        return bytes([number])
    for code, letter, bits in ((0xCC, "B", 8), (0xCD, "H", 16), (0xCE, "I", 32)):
        if number < 1 << bits:
            return struct.pack(f">B{letter}", code, number)
    return struct.pack(">BQ", 0xCF, number)
