"""The files that Keras writes: opened with their checksums compared, and copied with other tensors.

A `.keras` file is a zip archive, not compressed, of config.json, metadata.json and
model.weights.h5; a `.weights.h5` is the last alone. A tensor is a block of bytes in both.
"""

import json
import struct
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from sgdm.convert.bounded import Bounded
from sgdm.convert.checkpoint import broken, opened
from sgdm.convert.hdf5 import SIGNATURE
from sgdm.convert.raw import Patch, write_patched

__all__ = ["Source", "open_source", "write_archive", "write_weights"]

_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
_LONGEST_CONFIG = 2**23
_MOST_OBJECTS = 400_000  # in it; each takes much more memory than letters
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Source:
    """An open file.

    Attributes:
        path: Its name.
        file: What is read.
        start: Where in it the HDF5 file begins.
        size: How long that is.
        config: The content of its config.json; None where it is no archive.
    """

    path: Path
    file: BufferedReader
    start: int
    size: int
    config: dict[str, Any] | None

    @property
    def place(self) -> str:
        """What errors call the HDF5 file."""
        return "HDF5" if self.config is None else _WEIGHTS


@contextmanager
def open_source(path: Path) -> Generator[Source]:
    """Open a file and compare its checksums, if it has any.

    Raises:
        FileError: If it is broken, or something else.
    """
    with opened(path, "a .keras or .weights.h5 file of Keras 3") as file:
        head = file.read(8)
        if head == SIGNATURE:
            yield Source(path, file, 0, file.seek(0, 2), None)
        elif head[:4] == b"PK\x03\x04":
            yield _archive(path, file)
        else:
            problem = "it is neither a zip archive nor HDF5"
            raise broken(path, "byte 0", problem, "give a .keras or .weights.h5 file of Keras 3")


def write_archive(target: BinaryIO, source: Source, patches: Sequence[Patch]) -> None:
    """Write a copy of an archive with other tensors."""
    with zipfile.ZipFile(source.file) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            copy = zipfile.ZipInfo(info.filename, info.date_time)
            copy.file_size = info.file_size
            start = _start_of(source.file, info)
            with new.open(copy, "w") as member:
                write_patched(
                    member,
                    source.file,
                    source.path,
                    patches if info.filename == _WEIGHTS else (),
                    within=(start, start + info.file_size),
                )


def write_weights(target: BinaryIO, source: Source, patches: Sequence[Patch]) -> None:
    """Write a copy of an HDF5 file with other tensors."""
    within = (source.start, source.start + source.size)
    write_patched(target, source.file, source.path, patches, within=within)


def _start_of(file: BufferedReader, info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset + 26)
    return info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


def _archive(path: Path, file: BufferedReader) -> Source:
    place = "zip archive"
    try:
        # Which is read at once too; the other members are read in pieces.
        bounded = Bounded(FileIO(file.fileno(), closefd=False), _LONGEST_CONFIG)
        with bounded, zipfile.ZipFile(bounded) as archive:
            members = archive.infolist()
            _check_members(members, file.seek(0, 2))
            for info in members:
                place = info.filename
                with archive.open(info) as member:  # to its end, where the checksum is compared
                    while member.read(_CHUNK):
                        pass
            place = _CONFIG
            config = _config(archive)
            place = _WEIGHTS
            info = archive.getinfo(_WEIGHTS)
        start = _start_of(file, info)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise broken(path, place, f"it cannot be read ({reason:.200})") from error
    return Source(path, file, start, info.file_size, config)


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    if any(info.compress_type != zipfile.ZIP_STORED for info in members):
        raise ValueError("what is in it is compressed, which Keras never does")
    if sum(info.file_size for info in members) > size:
        raise ValueError("what is in it is said to be larger than the file")
    if len({info.filename for info in members}) < len(members):
        raise ValueError("two files in it have one name")


def _config(archive: zipfile.ZipFile) -> dict[str, Any]:
    info = archive.getinfo(_CONFIG)
    if info.file_size > _LONGEST_CONFIG:
        raise ValueError(f"{info.file_size} bytes are too many")
    text = archive.read(info)
    if text.count(b"{") + text.count(b"[") > _MOST_OBJECTS:
        raise ValueError(f"more than {_MOST_OBJECTS} objects are too many")
    config = json.loads(text)
    if not isinstance(config, dict):
        raise TypeError("it is no JSON object")
    return cast("dict[str, Any]", config)
