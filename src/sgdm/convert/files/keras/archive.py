"""The files that Keras writes: opened with their checksums compared, and copied with other tensors.

A `.keras` file is a zip archive, not compressed, of config.json, metadata.json and
model.weights.h5; a `.weights.h5` is the last alone. A tensor is a block of bytes in both.
"""

import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from sgdm.convert.checkpoint import broken
from sgdm.convert.hdf5 import SIGNATURE, Dataset

__all__ = ["Block", "Source", "open_source", "write_archive", "write_weights"]

_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
_LONGEST_CONFIG = 2**23
_CHUNK = 2**20

# Where a tensor is to lie, and what gives it, as stored.
Block = tuple[Dataset, Callable[[], Tensor]]


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
    try:
        file = path.open("rb")
    except OSError as error:
        problem = f"it cannot be read ({error.strerror})"
        raise broken(path, "file", problem, "give another") from error
    with file:
        head = file.read(8)
        if head == SIGNATURE:
            yield Source(path, file, 0, file.seek(0, 2), None)
        elif head[:4] == b"PK\x03\x04":
            yield _archive(path, file)
        else:
            problem = "it is neither a zip archive nor HDF5"
            raise broken(path, "byte 0", problem, "give a .keras or .weights.h5 file of Keras 3")


def write_archive(target: BinaryIO, source: Source, blocks: list[Block]) -> None:
    """Write a copy of an archive with other tensors."""
    with zipfile.ZipFile(source.file) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            copy = zipfile.ZipInfo(info.filename, info.date_time)
            copy.file_size = info.file_size
            with new.open(copy, "w") as member:
                if info.filename == _WEIGHTS:
                    write_weights(member, source, blocks)
                else:
                    with old.open(info) as content:
                        shutil.copyfileobj(content, member, _CHUNK)


def write_weights(target: Any, source: Source, blocks: list[Block]) -> None:
    """Write a copy of an HDF5 file with other tensors, one of which is in memory at a time."""
    at = source.start
    for dataset, tensor in sorted(blocks, key=lambda block: block[0].offset):
        if dataset.nbytes == 0:
            continue
        if dataset.offset < at:
            raise broken(source.path, source.place, "two of its tensors overlap")
        _copy(source.file, at, dataset.offset, target)
        target.write(cast("Any", tensor().reshape(-1).view(torch.uint8).numpy()))
        at = dataset.offset + dataset.nbytes
    _copy(source.file, at, source.start + source.size, target)


def _copy(file: BufferedReader, at: int, end: int, target: Any) -> None:
    file.seek(at)
    while at < end:
        chunk = file.read(min(_CHUNK, end - at))
        target.write(chunk)
        at += len(chunk)


def _archive(path: Path, file: BufferedReader) -> Source:
    place = "zip archive"
    try:
        with zipfile.ZipFile(file) as archive:
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
        file.seek(info.header_offset + 26)
        start = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
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
    config = json.loads(archive.read(info))
    if not isinstance(config, dict):
        raise TypeError("it is no JSON object")
    return cast("dict[str, Any]", config)
