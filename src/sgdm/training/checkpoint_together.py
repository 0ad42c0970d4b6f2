"""The checkpoint that several processes write: each its part, in the format of torch's DCP.

It is a folder: DCP's files, and `run.json` with what the checkpoint says of itself and the digests
of those files. It is read without executing, by as many processes as there are then. DCP itself
would unpickle whatever `.metadata` and the entries that are no tensors hold.
"""

import hashlib
import json
import pickle
import warnings
from collections.abc import Callable
from enum import Enum, EnumType
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from sgdm.errors import FileError
from sgdm.files import write_atomically
from sgdm.training.checkpoint import (
    Progress,
    fitting,
    header_of,
    progress_in,
    reading,
    refuse_other,
)
from sgdm.training.learner import Learner
from sgdm.training.replacing import beside, put_in_place, stage

__all__ = ["load_together", "save_together"]

# What DCP's metadata are made of; the modules are where their classes are pickled from.
_METADATA_CLASSES = {
    ("torch.distributed.checkpoint.metadata", name)
    for name in (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    )
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("torch", "float32"),
    ("torch", "float64"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "Path"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
}


def save_together(place: Path, learner: Learner, fingerprint: str, progress: Progress) -> None:
    """Write the checkpoint, each process its part; the old one stays until the new one is whole.

    Raises:
        FileError: If it cannot be written; in all processes.
    """
    by_first = learner.world.by_first
    staged, _ = beside(place)
    by_first(lambda: _writing(place, stage))
    model, optimizer = get_state_dict(learner.model, learner.optimizer)
    state: dict[str, Any] = {"model": model, "optimizer": optimizer}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TypedStorage is deprecated")  # torch 2.10 asks for it
        try:
            dcp.save(state, storage_writer=dcp.FileSystemWriter(staged))
        except CheckpointException as error:
            raise _cannot_write(place, _reason(error)) from error
    header = header_of(learner, fingerprint, progress)
    by_first(lambda: _write_header(staged, header))
    by_first(lambda: _writing(place, put_in_place))


def load_together(place: Path, learner: Learner, fingerprint: str) -> Progress:
    """Put a learner where the checkpoint left it, each process its part.

    Raises:
        FileError: As of `load_checkpoint`; in all processes.
    """
    world = learner.world
    header = world.by_first(lambda: _read_header(place))
    with reading(place):
        progress = progress_in(header, learner)
    refuse_other(place, header, learner, fingerprint)
    with world.together(), reading(place):
        metadata = _read_metadata(place)
    model, optimizer = get_state_dict(learner.model, learner.optimizer)
    state: dict[str, Any] = {"model": model, "optimizer": optimizer}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # for one process
        try:
            dcp.load(state, storage_reader=_Reader(place, metadata), planner=_Planner())
        except CheckpointException as error:
            raise FileError(
                f"{place} is of another model ({_reason(error)}); start a new run"
            ) from error
    with fitting(place):
        set_state_dict(
            learner.model,
            learner.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
    return progress


class _Reader(dcp.FileSystemReader):
    """Reads what the metadata name, and no metadata by itself."""

    def __init__(self, place: Path, metadata: Metadata) -> None:
        super().__init__(place)
        self._metadata = metadata

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        return self._metadata


class _Planner(DefaultLoadPlanner):
    """Loads entries that are no tensors as tensors are loaded: without executing."""

    def load_bytes(self, read_item: ReadItem, value: BytesIO) -> None:
        # DCP has no switch for it, and unpickles what it is given: so that is made anew.
        plain = torch.load(value, weights_only=True)
        anew = BytesIO()
        torch.save(plain, anew)
        anew.seek(0)
        super().load_bytes(read_item, anew)


class _MetadataUnpickler(pickle.Unpickler):
    """Makes what metadata are made of, and calls nothing else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) == ("builtins", "getattr"):
            return _member
        if (module_name, global_name) not in _METADATA_CLASSES:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} has no place in it")
        return super().find_class(module_name, global_name)


def _member(owner: Any, name: str) -> Enum:
    """Return a member of an Enum, which some Pythons (3.11.2) pickle as an attribute."""
    if not isinstance(owner, EnumType) or name not in owner.__members__:
        raise pickle.UnpicklingError(f"{name!r} of {owner!r} has no place in it")
    return cast("Enum", owner[name])


def _read_metadata(place: Path) -> Metadata:
    with (place / ".metadata").open("rb") as file:
        metadata = _MetadataUnpickler(file).load()
    if not isinstance(metadata, Metadata):
        raise pickle.UnpicklingError(f"it holds a {type(metadata).__name__}")
    return metadata


def _writing(place: Path, change: Callable[[Path], object]) -> None:
    try:
        change(place)
    except OSError as error:
        raise _cannot_write(place, error.strerror) from error


def _cannot_write(place: Path, reason: str | None) -> FileError:
    return FileError(f"{place} cannot be written ({reason}); make room or choose another place")


def _reason(error: CheckpointException) -> str:
    """Return why the first process failed that did."""
    failure, _ = error.failures[min(error.failures)]
    cause = failure.__cause__ or failure.__context__  # torch.save has errors of its own
    for known in (failure, cause):
        if isinstance(known, OSError) and known.strerror:
            return known.strerror
    return str(failure).splitlines()[0] if str(failure) else type(failure).__name__


def _write_header(staged: Path, header: dict[str, Any]) -> None:
    content = {**header, "files": _digests(staged)}
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(staged / "run.json", lambda file: file.write(text.encode()))


def _read_header(place: Path) -> dict[str, Any]:
    """Return what the checkpoint says of itself, with its files as they were written."""
    with reading(place):
        header = json.loads((place / "run.json").read_text("utf-8"))
        digests = _digests(place)
        for name, digest in header["files"].items():
            if digests.get(name) != digest:
                raise ValueError(f"{name} is not what was written")
    return header


def _digests(folder: Path) -> dict[str, str]:
    digests: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name != "run.json":
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
