"""The checkpoint of a run: all that it needs to go on, written whole, read without executing."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from sgdm.errors import FileError
from sgdm.files import write_atomically
from sgdm.training.learner import Batch, Learner

__all__ = ["Progress", "load_checkpoint", "save_checkpoint"]

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
        "format": _FORMAT,
        "settings": learner.settings.as_plain(),
        "data": fingerprint,
        "progress": [progress.step, progress.loss, progress.correct, progress.seen],
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
    try:
        # torch.load does not look at the checksums: a flipped bit in a tensor would go unseen.
        with zipfile.ZipFile(path) as archive:
            if (torn := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{torn} has a wrong checksum")  # noqa: TRY301
        content = cast(
            "dict[str, Any]", torch.load(path, map_location=learner.device, weights_only=True)
        )
        written = content["format"], content["settings"], content["data"]
        progress = _checked(Progress(*content["progress"]), learner.total)
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror}); resume where it is") from error
    except Exception as error:
        raise _damaged(path, error) from error
    for what, mine, its in zip(
        ("format", "settings", "data"),
        (_FORMAT, learner.settings.as_plain(), fingerprint),
        written,
        strict=True,
    ):
        if mine != its:
            raise FileError(
                f"{path} is of a run with other {what}; resume it in the folder it was written "
                "in, with the same data, or start a new run"
            )
    try:
        learner.model.load_state_dict(content["model"])
        learner.optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{path} is of another model ({str(error).splitlines()[0]}); start a new run"
        ) from error
    return progress


def _checked(progress: Progress, total: int) -> Progress:
    counts = (progress.step, progress.correct, progress.seen)
    if {type(count) for count in counts} != {int} or min(counts) < 0 or progress.step > total:
        raise ValueError(f"its counts are {counts}, of {total} steps")
    progress.loss += 0.0  # a number
    return progress


def _damaged(path: Path, error: Exception) -> FileError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return FileError(
        f"{path} is no checkpoint that can be read ({reason}); start a new run with --overwrite"
    )
