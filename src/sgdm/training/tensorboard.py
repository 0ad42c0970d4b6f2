"""The scalars of a run for TensorBoard, an epoch at a time."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sgdm.errors import FileError
from sgdm.extras import load_extra
from sgdm.training.folder import Metrics
from sgdm.training.observer import ComparedEpoch, Observer

__all__ = ["TensorBoard"]


class TensorBoard(Observer):
    """Writes the scalars of every epoch; a comparison gets a folder a convention within.

    A run that goes on writes its earlier epochs again, from `metrics.csv`, and purges what
    TensorBoard had of them: so nothing is there twice, and nothing is missing of a run that was
    killed, or was not written for TensorBoard until then.

    Args:
        path: The folder of the event files.

    Raises:
        MissingExtraError: If tensorboard is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer_class: Any = load_extra(
            "torch.utils.tensorboard", extra="tensorboard"
        ).SummaryWriter
        self._writers: dict[Path, Any] = {}

    def resumed(self, metrics: Sequence[Metrics]) -> None:
        """Write the epochs so far, in place of what was there."""
        with self._writing():
            self._open(self._path, purge_step=1)
            for row in metrics:
                self._write(self._path, row.epoch, _scalars(row))

    def finished_epoch(self, metrics: Metrics) -> None:
        """Write the epoch."""
        with self._writing():
            self._write(self._path, metrics.epoch, _scalars(metrics))

    def compared_epoch(self, epochs: int, compared: Sequence[ComparedEpoch]) -> None:  # noqa: ARG002
        """Write the epoch of every convention, with its distance from the first."""
        with self._writing():
            for one in compared:
                scalars = {
                    **_scalars(one.metrics),
                    "distance/measured": one.distance,
                    "distance/predicted": one.predicted,
                }
                path = self._path / one.name.replace(":", "-")
                self._write(path, one.metrics.epoch, scalars)

    def close(self) -> None:
        """Write what is left, and close the files."""
        with self._writing():
            for writer in self._writers.values():
                writer.close()

    def _write(self, path: Path, epoch: int, scalars: Mapping[str, float]) -> None:
        writer = self._writers.get(path) or self._open(path, purge_step=None)
        for tag, value in scalars.items():
            writer.add_scalar(tag, value, epoch)
        writer.flush()  # a kill loses nothing of it

    def _open(self, path: Path, *, purge_step: int | None) -> Any:
        writer = self._writer_class(str(path), purge_step=purge_step)
        self._writers[path] = writer
        return writer

    @contextmanager
    def _writing(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise FileError(
                f"{self._path} cannot be written ({error.strerror}); make room, or go on without "
                "--tensorboard"
            ) from error


def _scalars(metrics: Metrics) -> dict[str, float]:
    return {
        "loss/train": metrics.train_loss,
        "loss/test": metrics.test_loss,
        "accuracy/train": metrics.train_accuracy,
        "accuracy/test": metrics.test_accuracy,
        "lr": metrics.lr,
        "momentum": metrics.momentum,
    }
