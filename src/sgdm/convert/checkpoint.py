"""What every checkpoint format is read into and written from: parameters and buffers, by name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgdm.errors import FileError

__all__ = ["Checkpoint", "Slot", "Stored", "broken"]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A parameter of a checkpoint, with its buffer.

    Attributes:
        name: As the file has it, such as "conv2d/kernel" or "0.weight".
        layout: What was done to bring it into torch's layout, such as "HWIO -> OIHW"; "" for
            nothing.
        parameter: The parameter; None where the file holds optimizer state alone.
        buffer: The momentum buffer, in the scale of the framework that wrote it; None where the
            file holds none for this parameter, because its first step is to come or because it is
            not saved.
        lr_scale: What the learning rate is multiplied by for this parameter alone.
    """

    name: str
    layout: str = ""
    parameter: Stored | None = None
    buffer: Stored | None = None
    lr_scale: float = 1.0


@dataclass(kw_only=True, slots=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        convention: The row whose buffers these are; None where the file does not say.
        slots: In the file's order.
        hyperparameters: What the file says of lr, momentum, nesterov, weight_decay, dampening, nu
            and weight_decay_mode, by these names.
        differing: Those in which its parameter groups differ; `hyperparameters` has the first's.
        steps: Updates done, where the file says.
        remarks: What else is in the file and does not come along, a phrase each.
    """

    convention: str | None
    slots: list[Slot]
    hyperparameters: dict[str, Any] = field(default_factory=dict[str, Any])
    differing: list[str] = field(default_factory=list[str])
    steps: int | None = None
    remarks: list[str] = field(default_factory=list[str])


def broken(path: Path, place: str, problem: str, remedy: str = "take an intact copy") -> FileError:
    """Return the error of a file that is not what it should be, with the place in it."""
    return FileError(f"{path}: {place}: {problem}; {remedy}")
