"""The layout of safetensors: eight bytes of length, a JSON header, and the tensors' bytes.

It is read here and not by the safetensors package, which maps the file: every page that was
touched would count as memory until the file is closed. Nothing is believed that the file's size
does not bear out.
"""

import io
import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from sgdm.convert.checkpoint import Stored, broken, opened
from sgdm.convert.raw import read_into, size_in_bytes, tensor_of, view_of
from sgdm.errors import FileError

__all__ = ["DTYPES", "SafeTensors", "open_safetensors", "write_safetensors"]

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
# About 60,000 tensors, and a sixteenth of the file's size. What JSON makes takes up to 25 times its
# text (measured).
_HEADER_LIMIT = 6 << 20
_MOST_AXES = 64


@dataclass(frozen=True, slots=True)
class SafeTensors:
    """An open file.

    Attributes:
        path: Its place.
        metadata: Text by key.
        tensors: Those of the dtypes above, by name, in the order of the header.
        others: The names of the rest.
    """

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, Stored]
    others: list[str]


@contextmanager
def open_safetensors(path: Path) -> Generator[SafeTensors]:
    """Open a file and read its header.

    Raises:
        FileError: If it cannot be read, or is not such a file.
    """
    with opened(path, "a file of safetensors") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        most = _HEADER_LIMIT + size // 16
        if length > min(size - 8, most):
            problem = f"is {length} bytes long, in a file of {size} (at most {most})"
            raise broken(path, "header", problem, "give an intact file of safetensors")
        header = _parsed(path, file.read(length))
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(text, str) for text in cast("dict[str, Any]", metadata).values()
        ):
            raise broken(path, "__metadata__", "holds what is no text")
        entries = {name: _Entry.of(path, name, given) for name, given in header.items()}
        _check_places(path, entries, size - 8 - length)
        tensors = {
            name: entry.stored(path, name, file, 8 + length)
            for name, entry in entries.items()
            if entry.dtype in DTYPES
        }
        others = [name for name in entries if name not in tensors]
        yield SafeTensors(path, cast("dict[str, str]", metadata), tensors, others)


def write_safetensors(file: BinaryIO, metadata: dict[str, str], tensors: dict[str, Stored]) -> None:
    """Write a file, one tensor in memory at a time.

    The header keeps the order; the bytes lie by the size of their items, so that every tensor
    begins at a multiple of it.
    """
    ordered = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    places: dict[str, list[int]] = {}
    end = 0
    for name in ordered:
        start, end = end, end + size_in_bytes(tensors[name].shape, tensors[name].dtype)
        places[name] = [start, end]
    entries = {
        name: {
            "dtype": _CODES[stored.dtype],
            "shape": list(stored.shape),
            "data_offsets": places[name],
        }
        for name, stored in tensors.items()
    }
    content = {"__metadata__": metadata, **entries}
    header = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)
    for name in ordered:
        view, tensor = view_of(name, tensors[name])
        file.write(view)
        del view, tensor


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @classmethod
    def of(cls, path: Path, name: str, given: Any) -> "_Entry":
        entry = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
        dtype, shape, places = (entry.get(k) for k in ("dtype", "shape", "data_offsets"))
        if not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(places):
            raise broken(path, name[:200], "has no dtype, shape or data_offsets")
        counts = tuple(cast("list[int]", shape))
        if len(counts) > _MOST_AXES or len(cast("list[int]", places)) != 2:
            raise broken(path, name[:200], "has too many axes, or not two data_offsets")
        start, end = cast("list[int]", places)
        if dtype in DTYPES and size_in_bytes(counts, DTYPES[dtype]) != end - start:
            problem = f"has {end - start} bytes, which are not those of {dtype}{list(counts)}"
            raise broken(path, name[:200], problem)
        return cls(dtype, counts, start, end)

    def stored(self, path: Path, name: str, file: io.BufferedReader, begin: int) -> Stored:
        """Return the tensor, to be read when asked for."""

        def read() -> Tensor:
            data = bytearray(self.end - self.start)
            try:
                file.seek(begin + self.start)
                if not read_into(file, memoryview(data)):
                    raise _cut_off(path, name)
                return tensor_of(data, DTYPES[self.dtype]).reshape(self.shape)
            except (OSError, ValueError, TypeError) as error:
                raise broken(path, name[:200], f"cannot be read ({str(error)[:200]})") from error

        return Stored(self.shape, DTYPES[self.dtype], read)


def _parsed(path: Path, data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data.decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise broken(path, "header", f"is no JSON of this kind ({str(error)[:200]})") from error
    if not isinstance(header, dict):
        raise broken(path, "header", "is no JSON object")
    return cast("dict[str, Any]", header)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name comes twice")
    "".join(made).encode()  # half a character, as JSON may have it, could not be shown or written
    return made


def _are_counts(value: Any) -> bool:
    """Whether it is a list of counts, none beyond 64 bits."""
    return isinstance(value, list) and all(
        type(count) is int and 0 <= count < 2**63 for count in cast("list[Any]", value)
    )


def _check_places(path: Path, entries: dict[str, _Entry], size: int) -> None:
    """Every byte of the data belongs to one tensor, as the format has it."""
    at = 0
    for start, end in sorted((entry.start, entry.end) for entry in entries.values()):
        if start != at or end < start:
            raise broken(path, "header", "its tensors overlap, or leave holes")
        at = end
    if at != size:
        raise broken(path, "header", f"its tensors take {at} bytes, and there are {size}")


def _cut_off(path: Path, name: str) -> FileError:
    return broken(path, name[:200], "is cut off")
