"""The folder of a run: its settings, its numbers, its checkpoint and its picture."""

import json
import os
import platform
import re
import shlex
import shutil
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from sgdm.errors import FileError
from sgdm.files import append_line, unfinished, write_atomically
from sgdm.training.lock import locked
from sgdm.training.replacing import beside, put_in_place, recover, stage
from sgdm.training.settings import Settings
from sgdm.training.world import World
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


_CHECKPOINT_FILE = re.compile(
    r"__\d+_\d+\.distcp|\.metadata(\.tmp)?|run\.json|\.run\.json\.[0-9a-f]{16}\.tmp"
)
_COLUMNS = [field.name for field in fields(Metrics)]


class RunFolder:
    """Where a run keeps its files.

    A training run has `config.json`, `metrics.csv`, `curves.png` and `checkpoint.pt`, or the folder
    `checkpoint` if it has several processes; a comparison `config.json`, `compare.csv` and
    `compare.png`. Either may have event files of TensorBoard.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.csv"
        self.curves = path / "curves.png"
        self.checkpoint = path / "checkpoint.pt"
        self.checkpoint_folder = path / "checkpoint"
        self.compare_csv = path / "compare.csv"
        self.compare_png = path / "compare.png"
        self.tensorboard = path / "tensorboard"

    @contextmanager
    def held(self, world: World, argument: str) -> Generator[None]:
        """Keep other runs out, until all is written; what holds it already may hold it again.

        Args:
            world: The processes of this run, of which the first one does it.
            argument: What named the folder: "out" or "resume".

        Raises:
            FileError: If another run is at work in it, or none can be. Nothing in it is changed.
        """
        with ExitStack() as stack:
            world.by_first(lambda: self._hold(stack, argument))
            yield

    def _hold(self, stack: ExitStack, argument: str) -> None:
        try:
            if argument == "out":
                stack.enter_context(_made(Path(os.path.realpath(self.path)).parent))
            stack.enter_context(locked(self.path, argument))
        except OSError as error:
            if argument == "out":
                raise self._cannot_write(error) from error
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                raise self._no_run() from error
            raise FileError(
                f"{self.path} cannot be locked ({error.strerror}); copy the run to a place where a "
                "file beside it can be written"
            ) from error

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Refuse a place that is taken.

        Raises:
            FileError: If it is a file or the current folder, or holds something and `overwrite` is
                False; or holds what is no run, whatever `overwrite` says.
        """
        with _reading(self.path):
            recover(self.path)
            if self.path.resolve() == Path.cwd():
                raise FileError.of("out", "a folder of its own", str(self.path), "name one")
            if self.path.exists() and not self.path.is_dir():
                raise FileError.of("out", "a folder", str(self.path), "choose another place")
            held = sorted(self.path.iterdir()) if self.path.is_dir() else []
            foreign = self._foreign(held)
        if held and not overwrite:
            raise FileError(
                f"{self.path} holds something already; go on with a run by --resume "
                f"{shlex.quote(str(self.path))}, replace it with --overwrite, or choose another "
                "--out"
            )
        if foreign:
            raise FileError(
                f"{self.path} holds {foreign[0].name}, which no run wrote; "
                "--overwrite replaces runs only: choose another --out"
            )

    @contextmanager
    def begin(self, world: World) -> "Generator[RunFolder]":
        """Put the first files of a run into the place, whole: the old run stays until they are.

        In the block they are written into a folder beside it, which then takes its place.

        Args:
            world: The processes that write them.

        Raises:
            FileError: If it cannot be written. What was there is there still.
        """
        staged, _ = beside(self.path)
        try:
            world.by_first(lambda: self._writing(stage))
            with _naming(self.path, staged):
                yield RunFolder(staged)
            world.by_first(lambda: self._writing(put_in_place))
        finally:
            if world.rank == 0:
                with suppress(OSError):
                    recover(self.path)

    def _writing(self, change: Callable[[Path], object]) -> None:
        try:
            change(self.path)
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> FileError:
        return FileError(f"{self.path} cannot be written ({error.strerror}); choose another --out")

    def _no_run(self) -> FileError:
        return FileError.of(
            "resume", "the folder of a run", str(self.path), "it has no config.json"
        )

    def is_saved_by_several(self) -> bool:
        """Whether the checkpoint to read is the folder that several processes write."""
        with _reading(self.path):
            recover(self.checkpoint_folder)
            return self.checkpoint_folder.is_dir() and not self.checkpoint.exists()

    def remove_checkpoint_file(self) -> None:
        """Remove the checkpoint of one process, where several have written theirs.

        Raises:
            FileError: If it cannot be removed: it would be read in place of theirs.
        """
        try:
            self.checkpoint.unlink(missing_ok=True)
        except OSError as error:
            raise FileError(
                f"{self.checkpoint} cannot be removed ({error.strerror}); remove it, and go on"
            ) from error

    def remove_checkpoint_folder(self) -> None:
        """Remove the checkpoint of several processes, where one has written its own."""
        if self.checkpoint_folder.exists():
            shutil.rmtree(self.checkpoint_folder, ignore_errors=True)  # it is not read any more

    def write_settings(self, settings: Settings, *, processes: int = 1, **more: Any) -> None:
        """Write the settings, what the bits depend on besides, and what else is to be known."""
        environment = {**_environment(), "processes": processes}
        content = {"settings": settings.as_plain(), "environment": environment, **more}
        text = json.dumps(content, indent=2) + "\n"
        write_atomically(self.config, lambda file: file.write(text.encode()))

    def read_settings(self) -> Settings:
        """Read the settings of the run that is in the folder.

        Raises:
            FileError: If there is none, or its `config.json` is damaged.
        """
        with _reading(self.path):
            recover(self.path)
            if not self.config.is_file():
                raise self._no_run()
            text = self.config.read_text("utf-8", errors="replace")
        try:
            content = json.loads(text)
            compared = "conventions" in content
            settings = Settings.from_plain(content["settings"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise FileError(
                f"{self.config} is damaged ({error}); start a new run with --overwrite"
            ) from error
        if compared:
            raise FileError(
                f"{self.path} holds a comparison, which keeps no checkpoint; "
                "run it again with --overwrite"
            )
        return settings

    def append(self, row: Metrics) -> None:
        """Add a row to the metrics and flush it to the disk."""
        append_line(self.metrics, _line(row))

    def write_metrics(self, rows: Sequence[Metrics]) -> None:
        """Write the metrics anew, with these rows."""
        text = "".join(f"{line}\n" for line in (",".join(_COLUMNS), *map(_line, rows)))
        write_atomically(self.metrics, lambda file: file.write(text.encode()))

    def read_metrics(self) -> list[Metrics]:
        """Read the rows back, without a last line that was cut off while it was written.

        Raises:
            FileError: If the file is missing or damaged otherwise.
        """
        with _reading(self.metrics):
            text = self.metrics.read_text("utf-8", errors="replace")
        whole, _, _torn = text.rpartition("\n")
        header, *lines = whole.split("\n")
        try:
            if header != ",".join(_COLUMNS):
                raise ValueError(f"its first line is {header[:40]!r}")  # noqa: TRY301
            return [_parsed(line) for line in lines]
        except ValueError as error:
            raise FileError(
                f"{self.metrics} is damaged ({error}); start a new run with --overwrite"
            ) from error

    def _foreign(self, held: list[Path]) -> list[Path]:
        """Return what no run wrote, of what the folder holds."""
        own = self._own_files() if held else []
        folders = self._own_folders()
        return [file for file in held if not _is_own(file, own, folders)] + [
            file
            for folder, is_own in folders.items()
            for file in sorted(folder.rglob("*"))
            if not is_own(file)
        ]

    def _own_folders(self) -> dict[Path, Callable[[Path], bool]]:
        """Return the folders that a run may have, and what belongs into each."""
        checkpoints = (self.checkpoint_folder, *beside(self.checkpoint_folder))
        return {
            self.tensorboard: _is_event_file,
            **{self.path / folder.name: _is_checkpoint_file for folder in checkpoints},
        }

    def _own_files(self) -> list[Path]:
        files = [
            self.config,
            self.metrics,
            self.curves,
            self.checkpoint,
            self.compare_csv,
            self.compare_png,
        ]
        return files + [left for file in files for left in unfinished(file)]


def _is_own(file: Path, files: Sequence[Path], folders: Collection[Path]) -> bool:
    if file in folders:
        return file.is_dir() and not file.is_symlink()
    return file in files and file.is_file()


def _is_checkpoint_file(file: Path) -> bool:
    """Whether torch.distributed.checkpoint wrote it, or what stands beside that."""
    return file.is_file() and _CHECKPOINT_FILE.fullmatch(file.name) is not None


def _is_event_file(file: Path) -> bool:
    """Whether TensorBoard's writer made it: event files, in folders of their own."""
    return file.is_dir() or file.name.startswith("events.out.tfevents.")


@contextmanager
def _made(folder: Path) -> Generator[None]:
    """Have a folder, with those around it; what was made for it is not left behind empty."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for made in missing:
            with suppress(OSError):
                made.rmdir()


@contextmanager
def _naming(folder: Path, staged: Path) -> Generator[None]:
    """Name the folder that was asked for, where an error names the one that stands for it."""
    try:
        yield
    except FileError as error:
        raise FileError(str(error).replace(str(staged), str(folder))) from error


@contextmanager
def _reading(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror}); name another place") from error


def _parsed(line: str) -> Metrics:
    numbers: list[Any] = [
        int(value) if field.type is int else float(value)
        for field, value in zip(fields(Metrics), line.split(","), strict=True)
    ]
    return Metrics(*numbers)


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
