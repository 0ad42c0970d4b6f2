"""One training run: from the first step or from a checkpoint to the last, interruptible anywhere.

A run writes its folder in an order that a kill at any moment leaves whole: an epoch's metrics
first, then its checkpoint. What is beyond the checkpoint is cut off when the run goes on.
"""

import shlex
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sgdm.errors import DivergedError, FileError, InterruptedRunError
from sgdm.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from sgdm.training.data import load_data
from sgdm.training.folder import Metrics, RunFolder
from sgdm.training.learner import Learner
from sgdm.training.observer import Observer
from sgdm.training.settings import Settings

__all__ = ["finish_epoch", "resume", "train"]


def train(
    settings: Settings, path: Path, *, overwrite: bool = False, observer: Observer | None = None
) -> list[Metrics]:
    """Train from the beginning; nothing is written before everything has been checked.

    Args:
        settings: What to train.
        path: The folder of the run, which is made.
        overwrite: Replace a run that is there.
        observer: Is told of every step.

    Returns:
        The metrics of every epoch.

    Raises:
        InvalidValueError: If a setting is out of range or the data leave nothing to learn.
        FileError: If the data cannot be read, the place is taken or the disk is full.
        DivergedError: If the loss is no longer finite; what was written stays.
        InterruptedRunError: At an interrupt (Ctrl-C), after saving.
    """
    folder = RunFolder(path)
    folder.refuse_existing(overwrite=overwrite)
    data = load_data(settings.data, seed=settings.seed)
    learner = Learner(settings, data)

    def write(new: RunFolder) -> None:
        new.write_settings(settings)
        new.write_metrics([])
        save_checkpoint(new.checkpoint, learner, data.fingerprint, Progress())

    folder.begin(write)
    return _go_on(folder, learner, data.fingerprint, Progress(), observer or Observer())


def resume(path: Path, *, observer: Observer | None = None) -> list[Metrics]:
    """Go on with a run that was interrupted, from its checkpoint, to the same bits.

    Raises:
        FileError: If the folder holds no run, or its files are damaged or of another run.
        DivergedError: As for `train`.
        InterruptedRunError: As for `train`.
    """
    folder = RunFolder(path)
    settings = folder.read_settings()
    data = load_data(settings.data, seed=settings.seed)
    learner = Learner(settings, data)
    progress = load_checkpoint(folder.checkpoint, learner, data.fingerprint)
    rows = [row for row in folder.read_metrics() if row.step <= progress.step]
    epochs = range(1, progress.step // learner.per_epoch + 1)
    if [(row.epoch, row.step) for row in rows] != [(e, e * learner.per_epoch) for e in epochs]:
        raise FileError(
            f"{folder.metrics} has not the {len(epochs)} epochs up to the checkpoint; put it back, "
            "or start a new run with --overwrite"
        )
    folder.write_metrics(rows)
    observer = observer or Observer()
    observer.resumed(rows)
    return _go_on(folder, learner, data.fingerprint, progress, observer)


def _go_on(
    folder: RunFolder, learner: Learner, fingerprint: str, progress: Progress, observer: Observer
) -> list[Metrics]:
    def save() -> None:
        save_checkpoint(folder.checkpoint, learner, fingerprint, progress)

    observer.started(progress.step, learner.total)
    with _deferred_interrupt() as interrupted:
        while progress.step < learner.total:
            try:
                batch = learner.step(progress.step)
            except DivergedError as error:
                raise DivergedError(f"{error}; what the run wrote is in {folder.path}") from error
            progress.take(batch)
            observer.stepped(batch)
            if progress.step % learner.per_epoch == 0:
                metrics = finish_epoch(learner, progress)
                folder.append(metrics)
                save()
                observer.finished_epoch(metrics)
            if interrupted():
                save()
                raise InterruptedRunError(
                    f"interrupted after {progress.step} of {learner.total} steps; "
                    f"go on with: sgdm train --resume {shlex.quote(str(folder.path))}"
                )
    return folder.read_metrics()


def finish_epoch(learner: Learner, progress: Progress) -> Metrics:
    """Evaluate what was learned, sum the epoch up, and begin the next one's sums."""
    score = learner.evaluate()
    group = learner.optimizer.param_groups[0]
    metrics = Metrics(
        epoch=progress.step // learner.per_epoch,
        step=progress.step,
        lr=float(group["lr"]),
        momentum=float(group["momentum"]),
        train_loss=progress.loss / progress.seen,
        train_accuracy=progress.correct / progress.seen,
        test_loss=score.loss,
        test_accuracy=score.accuracy,
    )
    progress.loss, progress.correct, progress.seen = 0.0, 0, 0
    return metrics


@contextmanager
def _deferred_interrupt() -> Generator["_Interrupt"]:
    """Let the first Ctrl-C or SIGTERM wait for the end of the step; a second one acts at once.

    Outside the main thread, where signals do not arrive, nothing is changed.
    """
    interrupt = _Interrupt()
    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
    previous = [(number, signal.signal(number, interrupt.note)) for number in numbers]
    try:
        yield interrupt
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


class _Interrupt:
    """Whether an interrupt has come."""

    def __init__(self) -> None:
        self._noted = False

    def note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler
        self._noted = True
        signal.signal(number, signal.SIG_DFL)

    def __call__(self) -> bool:
        return self._noted
