"""What every checkpoint format is read into and written from: parameters and buffers, by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from stat import S_ISREG
from typing import Any

import torch
from torch import Tensor

from sgdm.errors import FileError

__all__ = [
    "Checkpoint",
    "Slot",
    "Stored",
    "Times",
    "broken",
    "check_rule",
    "listed",
    "opened",
    "shown",
    "zeros",
]

HYPERPARAMETERS = (
    "lr",
    "momentum",
    "nesterov",
    "weight_decay",
    "dampening",
    "nu",
    "weight_decay_mode",
    "lr0",
    "last_momentum",
)

_LONGEST = 100  # of a name that is shown
_MOST = 5  # names that are shown


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that is read when it is asked for, so that one at a time is in memory.

    Attributes:
        shape: In torch's layout.
        dtype: As stored.
        read: Returns the tensor, on the CPU, in torch's layout and contiguous, for the caller to
            keep; raises `FileError` where the file is broken there.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Times:
    """A hyperparameter of one parameter that is that many times the checkpoint's."""

    factor: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A parameter of a checkpoint, with its buffer, or a statistic that no optimizer steps.

    Attributes:
        name: As the file has it, such as "conv2d/kernel" or "0.weight".
        layout: What was done to bring it into torch's layout, such as "HWIO -> OIHW"; "" for
            nothing.
        parameter: The parameter; None where the file holds optimizer state alone.
        buffer: The momentum buffer, in the scale of the framework that wrote it; None where the
            file holds none for this parameter, because its first step is to come or because it is
            not saved.
        own: Hyperparameters of this parameter alone, before the checkpoint's: numbers, `Times`,
            or None for one that it has not.
        group: The number of its parameter group, where there are several.
        stepped: Whether an optimizer steps it: not so statistics of BatchNorm, and parameters that
            the file says are frozen.
    """

    name: str
    layout: str = ""
    parameter: Stored | None = None
    buffer: Stored | None = None
    own: dict[str, Any] = field(default_factory=dict[str, Any])
    group: int = 0
    stepped: bool = True


@dataclass(kw_only=True, slots=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        convention: The row whose buffers these are; None where the file does not say.
        slots: In the file's order.
        hyperparameters: What the file says of `HYPERPARAMETERS`, by these names.
        steps: Updates done, where the file says.
        remarks: What else is in the file and does not come along, a phrase each.
        assumed: What the file does not say, and was taken to be, a phrase each.
    """

    convention: str | None
    slots: list[Slot]
    hyperparameters: dict[str, Any] = field(default_factory=dict[str, Any])
    steps: int | None = None
    remarks: list[str] = field(default_factory=list[str])
    assumed: list[str] = field(default_factory=list[str])


def broken(path: Path, place: str, problem: str, remedy: str = "take an intact copy") -> FileError:
    """Return the error of a file that is not what it should be, with the place in it."""
    return FileError(
        f"{printable(str(path))}: {shown(place, 2 * _LONGEST)}: {printable(problem)}; {remedy}"
    )


def check_rule(path: Path, checkpoint: Checkpoint, convention: str) -> None:
    """Refuse a checkpoint that a file of this convention alone cannot hold.

    Raises:
        FileError: If its buffers are those of another one, or it has a dampening.
    """
    if checkpoint.convention not in (None, convention):
        problem = f"the checkpoint's buffers are those of {checkpoint.convention!r}"
        raise broken(path, "checkpoint", problem, f"convert them to {convention!r} first")
    if dampening := checkpoint.hyperparameters.get("dampening"):
        problem = f"the checkpoint has dampening={dampening}, which {convention!r} has not"
        raise broken(path, "checkpoint", problem, "convert it to another convention first")


def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Stored:
    """Return a tensor of zeros."""
    return Stored(shape, dtype, lambda: torch.zeros(shape, dtype=dtype))


def printable(text: str) -> str:
    """Return a text without what a terminal would act on."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(name: str, longest: int = _LONGEST) -> str:
    """Return a name of a file for a message: printable, and not longer than that."""
    name = name if len(name) <= longest else f"{name[: longest - 3]}..."
    return printable(name)


def listed(names: Sequence[str]) -> str:
    """Return names of a file for a message: the first five, and how many more."""
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(map(shown, names[:_MOST])) + more


def opened(path: Path, wanted: str) -> BufferedReader:
    """Open a file for reading.

    Args:
        path: The file; a pipe or a device is none, since it has no size to believe.
        wanted: What should be given, for the message.

    Raises:
        FileError: If it cannot be opened.
    """
    try:
        if path.exists() and not path.is_dir() and not S_ISREG(path.stat().st_mode):
            raise broken(path, "file", "is no regular file", f"give {wanted}")
        return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: there is a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        problem = f"cannot be opened ({reason})"
        raise broken(path, "file", problem, f"give {wanted}") from error
