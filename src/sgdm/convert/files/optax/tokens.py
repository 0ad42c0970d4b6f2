"""The things of a msgpack file one after the other: what each is, and how long."""

import struct
from io import BufferedReader
from pathlib import Path
from typing import NoReturn

from sgdm.convert.checkpoint import broken

__all__ = ["Tokens"]

# What the first byte of a thing says: its kind, and how its length is written; or how it is.
_LENGTHS = {
    first + i: (kind, code)
    for first, kind, codes in (
        (0xC4, "bytes", (">B", ">H", ">I")),
        (0xC7, "extension", (">B", ">H", ">I")),
        (0xD9, "text", (">B", ">H", ">I")),
        (0xDC, "list", (">H", ">I")),
        (0xDE, "map", (">H", ">I")),
    )
    for i, code in enumerate(codes)
}
_NUMBERS = dict(enumerate((">f", ">d", ">B", ">H", ">I", ">Q", ">b", ">h", ">i", ">q"), 0xCA))
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class Tokens:
    """A file, read from its beginning; what claims more than is left of it is refused.

    Attributes:
        position: The next byte.
        end: The byte after the last.
        trail: The names that lead here, for messages.
    """

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self.position = 0
        self.end = file.seek(0, 2)
        file.seek(0)
        self.trail: list[str] = []
        self._path = path
        self._file = file

    def refuse(self, problem: str, remedy: str = "take an intact copy") -> NoReturn:
        """Raise the error of a file that is broken here."""
        where = "/".join(self.trail)
        place = f"{where}, byte {self.position}" if where else f"byte {self.position}"
        raise broken(self._path, place, problem, remedy)

    def head(self) -> tuple[str, float | None]:
        """Read what a thing is, up to its content.

        Returns:
            "map", "list", "text", "bytes" or "extension" with a length; or "number" or "constant"
            with the value.
        """
        first = self.take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return "number", first if first < 0x80 else first - 0x100
        if first < 0xC0:
            kind = "map" if first < 0x90 else "list" if first < 0xA0 else "text"
            return kind, first & (0x1F if kind == "text" else 0x0F)
        if first in _CONSTANTS:
            return "constant", _CONSTANTS[first]
        if 0xD4 <= first <= 0xD8:
            return "extension", 1 << (first - 0xD4)
        kind, code = _LENGTHS.get(first) or ("number", _NUMBERS.get(first))
        if code is None:
            self.refuse(f"msgpack has no byte {first:#x} here")
        return kind, struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def size(self, *kinds: str, what: str) -> int:
        """Read what should be one of these kinds, up to its content; return its length."""
        kind, length = self.head()
        if kind not in kinds or not isinstance(length, int):
            self.refuse(f"{what} should be here, and there is a {kind}")
        return length

    def need(self, count: int) -> None:
        """Refuse a file that has not so many bytes left."""
        if count > self.end - self.position:
            self.refuse(f"{count} bytes should follow, and {self.end - self.position} do")

    def take(self, count: int) -> bytes:
        """Read so many bytes."""
        self.need(count)
        content = self._file.read(count)
        if len(content) != count:
            self.refuse("the file has become shorter")
        self.position += count
        return content

    def pass_over(self, count: int) -> None:
        """Go on after so many bytes."""
        self.need(count)
        self.position += count
        self._file.seek(self.position)
