"""The folder of a run: its settings, its numbers, its checkpoint and its picture."""

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from sgdm.errors import FileError, InvalidValueError
from sgdm.files import append_line, write_atomically
from sgdm.training.settings import Settings
from sgdm.version import __version__

__all__ = ["Metrics", "RunFolder"]


@dataclass(frozen=True, slots=True)
class Metrics:
    """A row of `metrics.csv`, written at the end of an epoch.

    Attributes:
        epoch: From 1.
        step: Steps taken by then.
        lr: ε of the epoch's last step.
        momentum: The momentum that this step was given.
        train_loss: Mean over the epoch, where the gradients were taken.
        train_accuracy: Likewise.
        test_loss: At the end of the epoch.
        test_accuracy: Likewise.
    """

    epoch: int
    step: int
    lr: float
    momentum: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float


_COLUMNS = [field.name for field in fields(Metrics)]


class RunFolder:
    """Where a run keeps its files.

    A training run has `config.json`, `metrics.csv`, `curves.png` and `checkpoint.pt`, a comparison
    `config.json`, `compare.csv` and `compare.png`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.csv"
        self.curves = path / "curves.png"
        self.checkpoint = path / "checkpoint.pt"
        self.compare_csv = path / "compare.csv"
        self.compare_png = path / "compare.png"

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Refuse a place that is taken.

        Raises:
            FileError: If it is a file, or holds something and `overwrite` is False; or holds what
                is no run, whatever `overwrite` says.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileError.of("out", "a folder", str(self.path), "choose another place")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not overwrite:
            raise FileError(
                f"{self.path} holds a run already; go on with it by --resume {self.path}, replace "
                "it with --overwrite, or choose another --out"
            )
        foreign = sorted(set(self.path.iterdir()) - set(self._own_files()))
        if foreign:
            raise FileError(
                f"{self.path} holds {foreign[0].name}, which no run wrote; "
                "--overwrite replaces runs only: choose another --out"
            )

    def create(self, settings: Settings, **more: Any) -> None:
        """Make the folder, or empty it, and write the settings, and what else is to be known.

        Raises:
            FileError: If it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for file in self._own_files():
                file.unlink(missing_ok=True)
        except OSError as error:
            raise FileError(
                f"{self.path} cannot be written ({error.strerror}); choose another --out"
            ) from error
        content = {"settings": settings.as_plain(), "environment": _environment(), **more}
        text = json.dumps(content, indent=2) + "\n"
        write_atomically(self.config, lambda file: file.write(text.encode()))

    def read_settings(self) -> Settings:
        """Read the settings of the run that is in the folder.

        Raises:
            FileError: If there is none, or its `config.json` is damaged.
        """
        if not self.config.is_file():
            raise FileError.of(
                "resume", "the folder of a run", str(self.path), "it has no config.json"
            )
        try:
            content = json.loads(self.config.read_text("utf-8"))
            if "conventions" in content:
                raise FileError(
                    f"{self.path} holds a comparison, which keeps no checkpoint; "
                    "run it again with --overwrite"
                )
            return Settings.from_plain(content["settings"])
        except (ValueError, KeyError, TypeError, InvalidValueError) as error:
            raise FileError(
                f"{self.config} is damaged ({error}); start a new run with --overwrite"
            ) from error

    def append(self, row: Metrics) -> None:
        """Add a row to the metrics and flush it to the disk."""
        append_line(self.metrics, _line(row))

    def read_metrics(self) -> list[Metrics]:
        """Read the rows back; a line that was cut off while it was written ends them."""
        return list(self._rows())

    def cut_metrics(self, step: int) -> None:
        """Drop the rows beyond a step: they are written again when the run goes on from it."""
        kept = [_line(row) for row in self._rows() if row.step <= step]
        text = "".join(f"{line}\n" for line in [",".join(_COLUMNS), *kept])
        write_atomically(self.metrics, lambda file: file.write(text.encode()))

    def _rows(self) -> Iterator[Metrics]:
        if not self.metrics.is_file():
            return
        text = self.metrics.read_text("utf-8")
        for line in text.splitlines(keepends=True)[1:]:
            values = line.rstrip("\n").split(",")
            if not line.endswith("\n") or len(values) != len(_COLUMNS):
                return
            try:
                numbers: list[Any] = [
                    int(value) if field.type is int else float(value)
                    for field, value in zip(fields(Metrics), values, strict=True)
                ]
                yield Metrics(*numbers)
            except ValueError as error:
                raise FileError(
                    f"{self.metrics} is damaged ({error}); start a new run with --overwrite"
                ) from error

    def _own_files(self) -> list[Path]:
        files = [
            self.config,
            self.metrics,
            self.curves,
            self.checkpoint,
            self.compare_csv,
            self.compare_png,
        ]
        return files + [file.with_name(f".{file.name}.tmp") for file in files]


def _line(row: Metrics) -> str:
    return ",".join(map(repr, asdict(row).values()))


def _environment() -> dict[str, Any]:
    """What else the bits depend on, for the record."""
    return {
        "sgdm": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
