"""The zip archives of torch.save: checked before anything is believed, written as a stream.

torch.load does not look at checksums, and a flipped bit in a tensor goes unseen there.
"""

import io
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from os import fstat
from pathlib import Path
from struct import unpack_from
from typing import Any, BinaryIO, cast

from torch import Tensor

from sgdm.convert.bounded import Bounded
from sgdm.convert.checkpoint import Stored, broken, opened
from sgdm.convert.files.torch_zip.pickled import View, as_pickle, from_pickle
from sgdm.convert.raw import read_into, tensor_of, view_of
from sgdm.errors import FileError

__all__ = ["Archive", "open_archive", "write_archive"]

# And a sixteenth of the file's size: what they hold takes up to 25 times as much (measured).
_PICKLE_LIMIT = 1 << 25
_DIRECTORY_LIMIT = 1 << 23  # about 100,000 entries
_MOST_READ = 64  # times the file: tied tensors are read as often as they are named
_ALIGNMENT = 64
_CHUNK = 1 << 20
_SAVE_AGAIN = "load it with torch.load(weights_only=True) and torch.save it again"


class Archive:
    """An open file of torch.save.

    Attributes:
        path: Its place.
        content: What was saved, with a `View` for each tensor.
    """

    def __init__(self, path: Path, file: io.BufferedReader) -> None:
        self.path = path
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        self._entries = self._directory()
        self._verified: set[str] = set()
        self._claimed = 0
        pickles = [name for name in self._entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise self._broken("archive", f"holds {len(pickles)} pickles named data.pkl", "")
        self._prefix = pickles[0].removesuffix("data.pkl")
        if f"{self._prefix}constants.pkl" in self._entries:
            raise self._broken(
                "archive", "is a TorchScript program", "save the model's state_dict() instead"
            )
        order = f"{self._prefix}byteorder"
        if order in self._entries and self._whole(order, 16) != b"little":
            raise self._broken(order, "does not say that the file is little-endian", _SAVE_AGAIN)
        try:
            pickled = self._whole(pickles[0], _PICKLE_LIMIT + self._size // 16)
            self.content: Any = from_pickle(pickled, self._size)
        except FileError:
            raise
        except Exception as error:
            raise self._broken(pickles[0], f"cannot be read ({_reason(error)})", "") from error

    def stored(self, view: View, place: str) -> Stored:
        """Return a tensor to be read when asked for.

        Args:
            view: Where it is.
            place: What it is, for messages.

        Raises:
            FileError: If its data cannot be what it says.
        """
        name = f"{self._prefix}data/{view.key}"
        entry = self._entries.get(name)
        if entry is None:
            raise self._broken(place, f"its data, {name[:200]!r}, is not in the archive", "")
        claimed = view.elements * view.dtype.itemsize
        if not 0 <= entry.file_size - claimed < view.dtype.itemsize:
            problem = f"its storage has {entry.file_size} bytes where {claimed} are announced"
            raise self._broken(place, problem, "")
        numel, extent = 1, 1
        for n, step in zip(view.shape, view.stride, strict=True):
            numel, extent = numel * n, extent + (n - 1) * step
        extent = extent if numel else 0
        if view.offset + extent > view.elements or numel > view.elements:
            raise self._broken(place, "reaches beyond its storage, or overlaps itself", "")
        self._claimed += numel * view.dtype.itemsize
        if self._claimed > _MOST_READ * self._size:
            raise self._broken(place, f"the tensors claim {_MOST_READ} times the file's size", "")

        def read() -> Tensor:
            start, size = view.offset * view.dtype.itemsize, extent * view.dtype.itemsize
            flat = tensor_of(self._part(entry, start, size), view.dtype)
            try:
                return flat.as_strided(view.shape, view.stride).contiguous()
            except (RuntimeError, OverflowError, TypeError) as error:
                raise self._broken(
                    place, f"has no possible shape ({_reason(error)})", ""
                ) from error

        return Stored(view.shape, view.dtype, read)

    def _directory(self) -> dict[str, zipfile.ZipInfo]:
        """Return the entries by name, none of which is larger when read than in the file."""
        self._file.seek(0)
        if (start := self._file.read(4)) != b"PK\3\4":
            old = start[:1] == b"\x80"
            raise self._broken(
                "archive",
                "is in the format that torch wrote before 1.6" if old else "is no zip archive",
                _SAVE_AGAIN if old else "give a file of torch.save",
            )
        try:
            entries = zipfile.ZipFile(self._file).infolist()
        except Exception as error:
            raise self._broken("archive", f"cannot be read ({_reason(error)})", "") from error
        for entry in entries:
            place = entry.filename[:200]
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                problem = "is compressed or encrypted, which torch does not write"
                raise self._broken(place, problem, _SAVE_AGAIN)
            if entry.file_size != entry.compress_size or entry.header_offset < 0:
                raise self._broken(place, "has no possible size or place", "")
        if sum(entry.file_size for entry in entries) > self._size:
            raise self._broken("archive", "its entries are larger than the file", "")
        by_name = {entry.filename: entry for entry in entries}
        if len(by_name) < len(entries):
            raise self._broken("archive", "has several entries of one name", "")
        return by_name

    def _whole(self, name: str, limit: int) -> bytes:
        entry = self._entries[name]
        if entry.file_size > limit:
            raise self._broken(name, f"has {entry.file_size} bytes, more than {limit}", "")
        return bytes(self._part(entry, 0, entry.file_size))

    def _part(self, entry: zipfile.ZipInfo, start: int, size: int) -> bytearray:
        """Return bytes of an entry; the whole of it is checked the first time."""
        data = bytearray(size)
        file, name = self._file, entry.filename
        try:
            file.seek(entry.header_offset)
            header = bytearray(30)
            whole = read_into(file, memoryview(header)) and header.startswith(b"PK\3\4")
            begin = file.tell() + sum(unpack_from("<HH", header, 26))
            if name not in self._verified:
                file.seek(begin)
                before, crc = self._skip(start, 0)
                among = whole and before and read_into(file, memoryview(data))
                after, crc = self._skip(entry.file_size - start - size, zlib.crc32(data, crc))
                if not (among and after):
                    raise self._broken(name[:200], "is cut off, or has no header", "")
                if crc != entry.CRC:
                    raise self._broken(
                        name[:200],
                        "has a wrong checksum",
                        "take an intact copy; what torch.serialization.set_crc32_options(False) "
                        "left without checksums has to be saved again with them",
                    )
                self._verified.add(name)
            else:
                file.seek(begin + start)
                read_into(file, memoryview(data))
        except (OSError, ValueError) as error:
            raise self._broken(name[:200], f"cannot be read ({_reason(error)})", "") from error
        return data

    def _skip(self, size: int, crc: int) -> tuple[bool, int]:
        """Read on without keeping; return whether there was that much, and the checksum so far."""
        scratch = memoryview(bytearray(min(size, _CHUNK)))
        while size:
            part = scratch[: min(size, _CHUNK)]
            if not read_into(self._file, part):
                return False, crc
            crc, size = zlib.crc32(part, crc), size - len(part)
        return True, crc

    def _broken(self, place: str, problem: str, remedy: str) -> FileError:
        return broken(self.path, place, problem, *([remedy] if remedy else []))


@contextmanager
def open_archive(path: Path) -> Generator[Archive]:
    """Open a file of torch.save and read all but its tensors.

    Raises:
        FileError: If it cannot be read, or is not such a file.
    """
    plain = opened(path, "a file of torch.save")
    longest = _DIRECTORY_LIMIT + fstat(plain.fileno()).st_size // 16
    with Bounded(cast("io.FileIO", plain.detach()), longest) as file:
        yield Archive(path, file)


def write_archive(file: BinaryIO, content: object, tensors: dict[str, Stored]) -> None:
    """Write what torch.load reads, one tensor in memory at a time.

    Args:
        file: Open for writing, and seekable: a header is completed after its data.
        content: What to save, with a `View` for each tensor.
        tensors: By the keys of these views.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (("data.pkl", as_pickle(content)), ("byteorder", b"little")):
            _add(archive, file, name, memoryview(data))
        for key, stored in tensors.items():
            view, tensor = view_of(f"tensor {key}", stored)
            _add(archive, file, f"data/{key}", view)
            del view, tensor
        _add(archive, file, "version", memoryview(b"3\n"))


def _add(archive: zipfile.ZipFile, file: BinaryIO, name: str, data: memoryview) -> None:
    """Add an entry whose data begins at a multiple of 64, as torch has it for memory mapping."""
    info = zipfile.ZipInfo(f"archive/{name}")  # its date is constant: equal state, equal bytes
    wide = len(data) * 1.05 > zipfile.ZIP64_LIMIT  # as zipfile decides
    header = file.tell() + 30 + len(info.filename) + (20 if wide else 0)
    padding = -(header + 4) % _ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    info.file_size = len(data)
    with archive.open(info, "w", force_zip64=wide) as entry:
        entry.write(data)


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
