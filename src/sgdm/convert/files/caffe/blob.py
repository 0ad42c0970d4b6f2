"""Caffe's `BlobProto`: a tensor, read where it lies and written as a stream."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from sgdm.convert.checkpoint import Stored
from sgdm.convert.files.caffe.wire import BYTES, Field, Messages, head_of, varint
from sgdm.convert.raw import read_into, size_in_bytes, tensor_of, view_of

__all__ = ["Blob", "Piece", "as_blob", "length_of", "read_blob", "squeezed", "write_pieces"]

# Numbers of caffe.proto.
_LEGACY = (1, 2, 3, 4)  # num, channels, height, width, before there was a shape
_SHAPE, _DIM = 7, 1
_DATA = {5: torch.float32, 8: torch.float64}
_DIFF = (6, 9)
_NUMBER_OF = {dtype: number for number, dtype in _DATA.items()}

_MOST_AXES = 32
_LONGEST = 2**31  # Caffe counts in int
_CHUNK = 1 << 20

# What a file is written from: bytes, a range of the file that is the template, or a tensor.
Piece = bytes | tuple[Messages, int, int] | Stored


@dataclass(frozen=True, slots=True)
class Blob:
    """A tensor in the file.

    Attributes:
        messages: The file.
        shape: As stored.
        legacy: Whether the shape is one of four axes whatever the tensor has.
        dtype: Of its elements.
        parts: Where they lie, in order: start and end.
        rest: The fields that are not its elements: number, start and end.
    """

    messages: Messages
    shape: tuple[int, ...]
    legacy: bool
    dtype: torch.dtype
    parts: tuple[tuple[int, int], ...]
    rest: tuple[tuple[int, int, int], ...]

    def stored(self, shape: tuple[int, ...]) -> Stored:
        """Return the tensor, of that shape, to be read when it is asked for."""
        return Stored(shape, self.dtype, lambda: self._read().reshape(shape))

    def _read(self) -> Tensor:
        data = bytearray(size_in_bytes(self.shape, self.dtype))
        view, file = memoryview(data), self.messages.file
        for start, end in self.parts:
            file.seek(start)
            if not read_into(file, view[: end - start]):
                raise self.messages.broken(start, "the file has become shorter")
            view = view[end - start :]
        return tensor_of(data, self.dtype)


def read_blob(messages: Messages, field: Field) -> Blob:
    """Return the tensor that a field is.

    Raises:
        FileError: If it is none.
    """
    if field.kind != BYTES:
        raise messages.broken(field.begin, "a blob should be here")
    legacy: dict[int, int] = {}
    shape: list[int] = []
    parts: dict[int, list[tuple[int, int]]] = {number: [] for number in _DATA}
    rest: list[tuple[int, int, int]] = []
    for inner in messages.fields(field.start, field.end):
        if inner.number in _DATA:
            if inner.kind != BYTES:
                raise messages.broken(
                    inner.begin, "its data is not packed", "have Caffe save it again"
                )
            parts[inner.number].append((inner.start, inner.end))
        elif inner.number not in _DIFF:
            rest.append((inner.number, inner.begin, inner.end))
        if inner.number in _LEGACY:
            legacy[inner.number] = inner.value
        elif inner.number == _SHAPE:
            shape += _dims(messages, inner)
    number = 8 if any(parts[8]) else 5  # as Caffe chooses
    found = tuple(legacy.get(axis, 0) for axis in _LEGACY) if legacy else tuple(shape)
    if len(found) > _MOST_AXES or max(found, default=0) >= _LONGEST:
        raise messages.broken(field.begin, "a blob has a shape that Caffe cannot have")
    held = sum(end - start for start, end in parts[number])
    if held != math.prod(found) * _DATA[number].itemsize:
        raise messages.broken(field.begin, f"a blob of shape {found} has {held} bytes")
    return Blob(messages, found, bool(legacy), _DATA[number], tuple(parts[number]), tuple(rest))


def _dims(messages: Messages, field: Field) -> list[int]:
    if field.kind != BYTES:
        raise messages.broken(field.begin, "a shape should be here")
    dims: list[int] = []
    for inner in messages.fields(field.start, field.end):
        if inner.number == _DIM:
            for dim in messages.varints(inner):
                dims.append(dim)
                if len(dims) > _MOST_AXES:
                    raise messages.broken(field.begin, "a shape has too many axes")
    return dims


def squeezed(shape: tuple[int, ...], axes: int = 1) -> tuple[int, ...]:
    """Return a shape without its leading ones, of that many axes at least."""
    while len(shape) > axes and shape[0] == 1:
        shape = shape[1:]
    return shape


def as_blob(stored: Stored, blob: Blob | None = None) -> list[Piece]:
    """Return a tensor of float32 or float64 as the content of a `BlobProto`.

    Args:
        stored: The tensor.
        blob: Whose other fields to keep, its shape among them.
    """
    number = _NUMBER_OF[stored.dtype]
    data: list[Piece] = [head_of(number, size_in_bytes(stored.shape, stored.dtype)), stored]
    if blob is not None:
        rest: list[tuple[int, Piece]] = [
            (other, (blob.messages, begin, end)) for other, begin, end in blob.rest
        ]
    else:
        dims = b"".join(map(varint, stored.shape))
        dims = head_of(_DIM, len(dims)) + dims
        rest = [(_SHAPE, head_of(_SHAPE, len(dims)) + dims)]
    # In the order of their numbers, as protobuf itself writes them.
    before: list[Piece] = [piece for other, piece in rest if other < number]
    return [*before, *data, *(piece for other, piece in rest if other >= number)]


def length_of(pieces: Iterable[Piece]) -> int:
    """Return how many bytes pieces are."""
    total = 0
    for piece in pieces:
        if isinstance(piece, Stored):
            total += size_in_bytes(piece.shape, piece.dtype)
        else:
            total += len(piece) if isinstance(piece, bytes) else piece[2] - piece[1]
    return total


def write_pieces(file: BinaryIO, pieces: Iterable[Piece]) -> None:
    """Write pieces one after the other, one tensor in memory at a time."""
    for piece in pieces:
        if isinstance(piece, bytes):
            file.write(piece)
        elif isinstance(piece, Stored):
            view, tensor = view_of("a tensor", piece)
            file.write(view)
            del view, tensor
        else:
            messages, start, end = piece
            messages.file.seek(start)
            while start < end:
                chunk = messages.file.read(min(_CHUNK, end - start))
                if not chunk:
                    raise messages.broken(start, "the file has become shorter")
                file.write(chunk)
                start += len(chunk)
