"""Caffe's `BlobProto`: a tensor, read where it lies and written as a stream."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import torch

from sgdm.convert.checkpoint import Stored
from sgdm.convert.files.caffe.wire import BYTES, Field, Messages, head_of, varint
from sgdm.convert.raw import Patch, read_tensor, size_in_bytes, write_tensor

__all__ = ["Blob", "Piece", "as_blob", "length_of", "read_blob", "squeezed", "write_pieces"]

# Numbers of caffe.proto.
_LEGACY = (1, 2, 3, 4)  # num, channels, height, width, before there was a shape
_SHAPE, _DIM = 7, 1
_DATA = {5: torch.float32, 8: torch.float64}
_DIFF = (6, 9)
_NUMBER_OF = {dtype: number for number, dtype in _DATA.items()}

_MOST_AXES = 32
_MOST_PARTS = 16  # protobuf itself writes one
_LONGEST = 2**31  # Caffe counts in int

# What a file is written from.
Piece = bytes | Stored


@dataclass(frozen=True, slots=True)
class Blob:
    """A tensor in the file.

    Attributes:
        messages: The file.
        place: Where it lies.
        shape: As stored.
        legacy: Whether the shape is one of four axes whatever the tensor has.
        dtype: Of its elements.
        parts: Where they lie, in order: start and end.
        replaced: The fields that another tensor takes the place of: begin and end.
    """

    messages: Messages
    place: Field
    shape: tuple[int, ...]
    legacy: bool
    dtype: torch.dtype
    parts: tuple[tuple[int, int], ...]
    replaced: tuple[tuple[int, int], ...]

    def stored(self, shape: tuple[int, ...]) -> Stored:
        """Return the tensor, of that shape, to be read when it is asked for."""
        file, path = self.messages.file, self.messages.path
        return Stored(
            shape, self.dtype, lambda: read_tensor(file, path, self.parts, shape, self.dtype)
        )

    def patches(self, stored: Stored) -> tuple[list[Patch], int]:
        """Return what puts another tensor in its place, and by how much it becomes longer."""
        number, size = _NUMBER_OF[stored.dtype], size_in_bytes(stored.shape, stored.dtype)
        data = [head_of(number, size), stored]
        # What is there first makes room for the data, the rest for nothing.
        first, *others = self.replaced or ((self.place.end, self.place.end),)
        held = sum(end - begin for begin, end in self.replaced)
        length = self.place.end - self.place.start - held + length_of(data)
        head = head_of(self.place.number, length)
        patches = [
            _patch(self.place.begin, self.place.start, [head]),
            _patch(*first, data),
            *(_patch(*other, []) for other in others),
        ]
        return patches, len(head) + length - (self.place.end - self.place.begin)


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
    replaced: list[tuple[int, int]] = []
    for inner in messages.fields(field.start, field.end):
        if inner.number in _DATA:
            parts[inner.number].append(_packed(messages, inner))
        if inner.number in _DATA or inner.number in _DIFF:
            replaced.append((inner.begin, inner.end))
        elif inner.number in _LEGACY:
            legacy[inner.number] = inner.value
        elif inner.number == _SHAPE:
            shape += _dims(messages, inner)
        if len(replaced) > _MOST_PARTS or len(shape) > _MOST_AXES:
            raise messages.broken(field.begin, "a blob has too many parts or axes")
    number = 8 if any(parts[8]) else 5  # as Caffe chooses
    found = tuple(legacy.get(axis, 0) for axis in _LEGACY) if legacy else tuple(shape)
    if max(found, default=0) >= _LONGEST:
        raise messages.broken(field.begin, "a blob has a shape that Caffe cannot have")
    held = sum(end - start for start, end in parts[number])
    if held != size_in_bytes(found, _DATA[number]):
        raise messages.broken(field.begin, f"a blob of shape {found} has {held} bytes")
    return Blob(
        messages, field, found, bool(legacy), _DATA[number], tuple(parts[number]), tuple(replaced)
    )


def _packed(messages: Messages, field: Field) -> tuple[int, int]:
    if field.kind != BYTES:
        raise messages.broken(field.begin, "its data is not packed", "have Caffe save it again")
    return field.start, field.end


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


def as_blob(stored: Stored) -> list[Piece]:
    """Return a tensor of float32 or float64 as the content of a `BlobProto`."""
    dims = b"".join(map(varint, stored.shape))
    dims = head_of(_DIM, len(dims)) + dims
    shape = head_of(_SHAPE, len(dims)) + dims
    number, size = _NUMBER_OF[stored.dtype], size_in_bytes(stored.shape, stored.dtype)
    # In the order of their numbers, as protobuf itself writes them.
    if number < _SHAPE:
        return [head_of(number, size), stored, shape]
    return [shape, head_of(number, size), stored]


def length_of(pieces: Iterable[Piece]) -> int:
    """Return how many bytes pieces are."""
    return sum(
        size_in_bytes(piece.shape, piece.dtype) if isinstance(piece, Stored) else len(piece)
        for piece in pieces
    )


def write_pieces(pieces: Iterable[Piece], file: BinaryIO) -> None:
    """Write pieces one after the other, one tensor in memory at a time."""
    for piece in pieces:
        if isinstance(piece, Stored):
            write_tensor("a tensor", piece, file)
        else:
            file.write(piece)


def _patch(start: int, end: int, pieces: list[Piece]) -> Patch:
    return Patch(start, end, partial(write_pieces, pieces))
