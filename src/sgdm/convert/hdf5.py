"""Where the tensors of an HDF5 file lie, found without the HDF5 library.

The library is C and crashes on broken files: of 10,000 mutations of a Keras file, h5py 3.16 (HDF5
2.0) died by a signal on 2, hung on 7 and took 1.9 GB on one. What Keras and Caffe write is the
classic form: groups as symbol tables, one contiguous block a dataset. Its few structures are read
here, each with its bounds checked and none twice; whatever else HDF5 knows (links to other files,
chunks, compression) is refused. Since a tensor is one block, replacing it is writing over it.

The structures are those of the HDF5 File Format Specification, version 3.0, sections II to IV.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import torch
from torch import Tensor

from sgdm.convert.checkpoint import broken
from sgdm.convert.raw import read_tensor, size_in_bytes
from sgdm.errors import FileError

__all__ = ["SIGNATURE", "Dataset", "find_datasets", "read_dataset"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"

_NOWHERE = 2**64 - 1
_DEEPEST = 32
# Models have some thousand tensors, called by some hundred characters.
_LONGEST_PATH = 1000
_MOST_DATASETS = 50_000
_MOST_CHARACTERS = 10_000_000  # of the paths of all groups and datasets
_MOST_READS = 3_000_000
_REMEDY = "take an intact copy, or have the framework that wrote it save it again"

# Size in bytes, then where exponent and mantissa lie, how wide they are, and the exponent's bias.
_FLOATS: dict[tuple[int, ...], torch.dtype] = {
    (2, 10, 5, 0, 10, 15): torch.float16,
    (2, 7, 8, 0, 7, 127): torch.bfloat16,
    (4, 23, 8, 0, 23, 127): torch.float32,
    (8, 52, 11, 0, 52, 1023): torch.float64,
}
_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_UNSIGNED = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}
_TEXT = (3, 9)  # of fixed and of variable length


@dataclass(frozen=True, slots=True)
class Dataset:
    """A block of the file.

    Attributes:
        shape: As stored.
        dtype: Of its elements.
        offset: From the start of the file that holds the HDF5 file.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int

    @property
    def nbytes(self) -> int:
        """How long the block is."""
        return size_in_bytes(self.shape, self.dtype)


def find_datasets(
    file: BufferedIOBase,
    path: Path,
    *,
    start: int = 0,
    size: int | None = None,
    place: str = "HDF5",
) -> dict[str, Dataset]:
    """Return every dataset of numbers by its path, such as "layers/dense/vars/0".

    Args:
        file: Open for reading.
        path: Its name, for errors.
        start: Where in it the HDF5 file begins.
        size: How long that is; None for up to the end.
        place: What errors call it.

    Raises:
        FileError: If it is no HDF5 file of the classic form, or broken.
    """
    size = file.seek(0, 2) - start if size is None else size
    return dict(_Reader(file, path, start, size, place).walk())


def read_dataset(file: BufferedIOBase, path: Path, dataset: Dataset) -> Tensor:
    """Return the tensor of a dataset, as stored.

    Raises:
        FileError: If the file has become shorter.
    """
    part = (dataset.offset, dataset.offset + dataset.nbytes)
    return read_tensor(file, path, [part], dataset.shape, dataset.dtype)


class _Reader:
    def __init__(self, file: BufferedIOBase, path: Path, start: int, size: int, place: str) -> None:
        self._file, self._path, self._start, self._size = file, path, start, size
        self._place = place
        self._seen: set[int] = set()
        self._name = ""  # of what is being read
        self._datasets, self._characters, self._reads = 0, 0, 0

    def walk(self) -> Iterator[tuple[str, Dataset]]:
        """Yield every dataset, with its path."""
        head = self._at(0, 96)
        if head[:8] != SIGNATURE:
            raise self._wrong("it does not begin as an HDF5 file")
        if head[8] != 0 or head[13:15] != b"\x08\x08" or self._number(24) != 0:
            raise self._wrong("it is HDF5 of another form than the classic one")
        if self._number(40) > self._size:
            raise self._wrong("it is cut off")
        yield from self._object(self._number(64), "", _DEEPEST)

    def _object(self, address: int, name: str, depth: int) -> Iterator[tuple[str, Dataset]]:
        """Yield what is in a group, or the dataset itself."""
        self._name = name
        if depth == 0:
            raise self._wrong("groups lie in groups without end")
        messages = dict(self._messages(address))
        if 0x11 in messages:
            tree, heap = struct.unpack("<QQ", self._at(messages[0x11], 16))
            children = set[str]()
            for child, at in self._links(tree, heap):
                if child in children:
                    raise self._wrong(f"two entries of it are called {child:.100}")
                children.add(child)
                yield from self._object(at, self._path_of(name, child), depth - 1)
                self._name = name
        elif 0x08 in messages and 0x01 in messages and 0x03 in messages:
            if (dtype := self._dtype(messages[0x03])) is not None:
                self._datasets += 1
                if self._datasets > _MOST_DATASETS:
                    raise self._wrong(f"there are more than {_MOST_DATASETS} datasets")
                yield name, self._dataset(messages[0x01], dtype, messages[0x08])
        else:
            raise self._wrong("it is neither a classic group nor a dataset")

    def _path_of(self, group: str, child: str) -> str:
        path = f"{group}/{child}" if group else child
        self._characters += len(path)
        if len(path) > _LONGEST_PATH or self._characters > _MOST_CHARACTERS:
            raise self._wrong("the names in it are too long")
        return path

    def _messages(self, address: int) -> Iterator[tuple[int, int]]:
        """Yield the messages of an object's header, by type: where each begins."""
        self._once(address)
        version, _, left, _, length = struct.unpack("<BBHII", self._at(address, 12))
        if version != 1:
            raise self._wrong("its header is of another form than the classic one")
        blocks = [(address + 16, length)]
        for begin, length in blocks:
            self._within(begin, length)
            at, end = begin, begin + length
            while at + 8 <= end and left > 0:
                kind, size, flags = struct.unpack_from("<HHB", self._at(at, 8))
                if at + 8 + size > end:
                    raise self._wrong("a message of its header is cut off")
                if kind == 0x10:
                    more: tuple[int, int] = struct.unpack("<QQ", self._at(at + 8, 16))
                    self._once(more[0])
                    blocks.append(more)
                elif kind == 0x07:
                    raise self._wrong("its data lie in other files")
                elif kind in (0x01, 0x03, 0x08, 0x11):
                    if flags & 2:
                        raise self._wrong("its type is shared between datasets")
                    yield kind, at + 8
                at += 8 + size
                left -= 1

    def _links(self, tree: int, heap: int) -> Iterator[tuple[str, int]]:
        """Yield the names in a group, and where each object's header is."""
        signature, _, length, _, names = struct.unpack("<4sIQQQ", self._at(heap, 32))
        if signature != b"HEAP":
            raise self._wrong("the names in it are lost")
        for table in self._tables(tree, None):
            signature, version, _, count = struct.unpack("<4sBBH", self._at(table, 8))
            if signature != b"SNOD" or version != 1:
                raise self._wrong("its table of contents is broken")
            for entry in range(table + 8, table + 8 + 40 * count, 40):
                name_at, header, kind = struct.unpack_from("<QQI", self._at(entry, 40))
                if kind > 1 or name_at >= length:
                    raise self._wrong("it holds a link")
                yield self._text(names + name_at), header

    def _tables(self, address: int, level: int | None) -> Iterator[int]:
        """Yield the leaves of a group's tree."""
        self._once(address)
        signature, kind, found, count = struct.unpack_from("<4sBBH", self._at(address, 24))
        if signature != b"TREE" or kind != 0 or level not in (None, found):
            raise self._wrong("its table of contents is broken")
        for child in range(address + 32, address + 32 + 16 * count, 16):
            at = self._number(child)
            if found:
                yield from self._tables(at, found - 1)
            else:
                self._once(at)
                yield at

    def _text(self, at: int) -> str:
        text, end, _ = self._at(at, min(4 * _LONGEST_PATH, max(0, self._size - at))).partition(
            b"\0"
        )
        if not end:
            raise self._wrong("a name in it is without end")
        try:
            name = text.decode()
        except UnicodeDecodeError as error:
            raise self._wrong("a name in it is no text") from error
        if not name or "/" in name or not name.isprintable():
            raise self._wrong("a name in it is empty or unreadable")
        return name

    def _dataset(self, space: int, dtype: torch.dtype, layout: int) -> Dataset:
        version, rank = self._at(space, 2)
        if version != 1 or rank > 32:
            raise self._wrong("its shape is of another form than the classic one")
        shape: tuple[int, ...] = struct.unpack(f"<{rank}Q", self._at(space + 8, 8 * rank))
        version, storage = self._at(layout, 2)
        if version != 3 or storage > 1:
            raise self._wrong("it is stored in chunks")
        if storage == 0:
            (held,) = struct.unpack("<H", self._at(layout + 2, 2))
            offset = layout + 4
        else:
            offset, held = struct.unpack("<QQ", self._at(layout + 2, 16))
        if max(shape, default=0) > self._size or held != size_in_bytes(shape, dtype):
            raise self._wrong(f"the shape {shape} does not fit the {held} bytes it is said to have")
        if held == 0:
            return Dataset(shape, dtype, self._start)
        if offset == _NOWHERE:
            raise self._wrong("it was never written")
        self._within(offset, held)
        return Dataset(shape, dtype, self._start + offset)

    def _dtype(self, at: int) -> torch.dtype | None:
        """Return the type of a dataset's numbers; None where it holds text."""
        kind, order, _, _, size = struct.unpack("<BBBBI", self._at(at, 8))
        dtype = None
        if kind & 15 in _TEXT:
            return None
        if kind & 15 == 0 and not order & 1:
            dtype = (_SIGNED if order & 8 else _UNSIGNED).get(size)
        elif kind & 15 == 1 and not order & 1:
            first, bits, *where = struct.unpack("<HHBBBBI", self._at(at + 8, 12))
            if first == 0 and bits == 8 * size:
                dtype = _FLOATS.get((size, *where))
        elif kind & 15 == 5 and size == 2:
            dtype = torch.bfloat16  # h5py has no type for it and stores it so
        if dtype is None:
            raise self._wrong("its numbers are of a type that torch does not have")
        return dtype

    def _once(self, address: int) -> None:
        """Refuse what was read before: a circle, or a tangle that takes time without end."""
        if address in self._seen:
            raise self._wrong("a part of the file is linked twice")
        self._seen.add(address)

    def _number(self, at: int) -> int:
        (value,) = struct.unpack("<Q", self._at(at, 8))
        return value

    def _at(self, at: int, count: int) -> bytes:
        self._within(at, count)
        self._reads += 1
        if self._reads > _MOST_READS:
            raise self._wrong("it consists of too many pieces")
        self._file.seek(self._start + at)
        return self._file.read(count)

    def _within(self, at: int, count: int) -> None:
        if at + count > self._size:
            raise self._wrong(f"{count} bytes at {at} lie beyond the end of the file")

    def _wrong(self, problem: str) -> FileError:
        place = f"{self._place}, {self._name}" if self._name else self._place
        return broken(self._path, place, problem, _REMEDY)
