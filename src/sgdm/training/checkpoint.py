"""The checkpoint of a run: all that it needs to go on, written whole, read without executing."""

import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from sgdm.errors import FileError
from sgdm.files import write_atomically
from sgdm.training.learner import Batch, Learner

__all__ = [
    "Progress",
    "fitting",
    "header_of",
    "load_checkpoint",
    "progress_in",
    "reading",
    "refuse_other",
    "save_checkpoint",
]

_FORMAT = 1


@dataclass(slots=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: Steps taken.
        loss: Sum of the training loss over the examples of the current epoch.
        correct: Examples of the current epoch classified rightly.
        seen: Examples of the current epoch.
    """

    step: int = 0
    loss: float = 0.0
    correct: int = 0
    seen: int = 0

    def take(self, batch: Batch) -> None:
        """Count a step."""
        self.step += 1
        self.loss += batch.loss * batch.size
        self.correct += batch.correct
        self.seen += batch.size


def save_checkpoint(path: Path, learner: Learner, fingerprint: str, progress: Progress) -> None:
    """Write the checkpoint; the one that was there stays until the new one is on the disk.

    Raises:
        FileError: If it cannot be written.
    """
    content = {
        **header_of(learner, fingerprint, progress),
        "model": learner.model.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
    }
    write_atomically(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path, learner: Learner, fingerprint: str) -> Progress:
    """Put a learner where the checkpoint left it.

    Raises:
        FileError: If the checkpoint is damaged, or of other settings, data or another model. The
            learner may then be half loaded: throw it away.
    """
    with reading(path):
        # torch.load does not look at the checksums: a flipped bit in a tensor would go unseen.
        with zipfile.ZipFile(path) as archive:
            if (torn := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{torn} has a wrong checksum")
        content = cast(
            "dict[str, Any]", torch.load(path, map_location=learner.device, weights_only=True)
        )
        progress = progress_in(content, learner)
    refuse_other(path, content, learner, fingerprint)
    with fitting(path):
        learner.load(content["model"], content["optimizer"])
    return progress


def header_of(learner: Learner, fingerprint: str, progress: Progress) -> dict[str, Any]:
    """Return what a checkpoint says of itself, in plain values."""
    return {
        "format": _FORMAT,
        "settings": learner.settings.as_plain(),
        "data": fingerprint,
        "progress": [progress.step, progress.loss, progress.correct, progress.seen],
    }


def progress_in(header: Mapping[str, Any], learner: Learner) -> Progress:
    """Return how far the run had come.

    Raises:
        Exception: Whatever a damaged header leads to.
    """
    missing = {"format", "settings", "data"} - header.keys()
    if missing:
        raise KeyError(*sorted(missing))
    progress = Progress(*header["progress"])
    counts = (progress.step, progress.correct, progress.seen)
    if (
        {type(count) for count in counts} != {int}
        or min(counts) < 0
        or progress.step > learner.total
    ):
        raise ValueError(f"its counts are {counts}, of {learner.total} steps")
    progress.loss += 0.0  # a number
    return progress


def refuse_other(path: Path, header: Mapping[str, Any], learner: Learner, fingerprint: str) -> None:
    """Refuse the checkpoint of another run.

    Raises:
        FileError: If it is one.
    """
    own = header_of(learner, fingerprint, Progress())
    for what in ("format", "settings", "data"):
        if header[what] != own[what]:
            raise FileError(
                f"{path} is of a run with other {what}; resume it in the folder it was written "
                "in, with the same data, or start a new run"
            )


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Turn what a checkpoint that cannot be read leads to into an error with its name."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror}); resume where it is") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(
            f"{path} is no checkpoint that can be read ({reason}); start a new run with --overwrite"
        ) from error


@contextmanager
def fitting(path: Path) -> Generator[None]:
    """Turn what the checkpoint of another network leads to into an error with its name."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{path} is of another model ({str(error).splitlines()[0]}); start a new run"
        ) from error
