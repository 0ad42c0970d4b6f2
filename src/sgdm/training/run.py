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
from sgdm.training.world import World

__all__ = ["finish_epoch", "resume", "train"]


def train(
    settings: Settings,
    path: Path,
    *,
    overwrite: bool = False,
    observer: Observer | None = None,
    world: World | None = None,
    shard: bool = False,
) -> list[Metrics]:
    """Train from the beginning; nothing is written before everything has been checked.

    Args:
        settings: What to train.
        path: The folder of the run, which is made.
        overwrite: Replace a run that is there.
        observer: Is told of every step.
        world: The processes that share the work; all of them call this. Only the first needs an
            observer.
        shard: Whether each keeps a part of the parameters and of the optimizer's state, and not a
            copy.

    Returns:
        The metrics of every epoch.

    Raises:
        InvalidValueError: If a setting is out of range, the data leave nothing to learn, or
            processes were given different ones.
        FileError: If the data cannot be read, the place is taken, another run is at work in it, or
            the disk is full.
        DivergedError: If the loss is no longer finite; what was written stays.
        InterruptedRunError: At an interrupt (Ctrl-C), after saving.
    """
    world = world or World()
    folder = RunFolder(path)

    def write(new: RunFolder) -> None:
        new.write_settings(settings, processes=world.size)
        new.write_metrics([])

    with folder.held(world, "out"):
        world.by_first(lambda: folder.refuse_existing(overwrite=overwrite))
        learner, fingerprint = _prepare(settings, world, shard=shard)
        with folder.begin(world) as new:
            world.by_first(lambda: write(new))
            _save(new, learner, fingerprint, Progress())
        return _go_on(folder, learner, fingerprint, Progress(), observer or Observer())


def resume(
    path: Path,
    *,
    observer: Observer | None = None,
    world: World | None = None,
    shard: bool = False,
) -> list[Metrics]:
    """Go on with a run that was interrupted, from its checkpoint.

    With as many processes as before, and sharded as before, it is to the same bits.

    Args:
        path: The folder of the run.
        observer: As for `train`.
        world: As for `train`; as many as there are now.
        shard: As for `train`.

    Raises:
        FileError: If the folder holds no run, another process is at work on it, or its files are
            damaged or of another run.
        DivergedError: As for `train`.
        InterruptedRunError: As for `train`.
    """
    world = world or World()
    folder = RunFolder(path)
    observer = observer or Observer()
    with folder.held(world, "resume"):
        settings = world.by_first(folder.read_settings)
        learner, fingerprint = _prepare(settings, world, shard=shard)
        progress = _load(folder, learner, fingerprint)
        rows = world.by_first(lambda: _cut(folder, progress, learner.per_epoch))
        observer.resumed(rows)
        return _go_on(folder, learner, fingerprint, progress, observer)


def _prepare(settings: Settings, world: World, *, shard: bool) -> tuple[Learner, str]:
    """Return the learner, and the fingerprint of its data."""
    with world.together():
        data = load_data(settings.data, seed=settings.seed)
    world.check_same({**settings.as_plain(), "shard": shard, "fingerprint": data.fingerprint})
    with world.together():
        learner = Learner(settings, data, world=world, shard=shard)
    return learner, data.fingerprint


def _cut(folder: RunFolder, progress: Progress, per_epoch: int) -> list[Metrics]:
    """Cut off what the metrics have beyond the checkpoint."""
    rows = [row for row in folder.read_metrics() if row.step <= progress.step]
    epochs = range(1, progress.step // per_epoch + 1)
    if [(row.epoch, row.step) for row in rows] != [(e, e * per_epoch) for e in epochs]:
        raise FileError(
            f"{folder.metrics} has not the {len(epochs)} epochs up to the checkpoint; put it back, "
            "or start a new run with --overwrite"
        )
    folder.write_metrics(rows)
    return rows


def _save(folder: RunFolder, learner: Learner, fingerprint: str, progress: Progress) -> None:
    """Write the checkpoint of as many processes, and remove the other kind.

    A kill in between leaves both kinds, and the file is read then, which is whole: in the one case
    it is the newer, in the other an epoch older.
    """
    if learner.world.size == 1:
        save_checkpoint(folder.checkpoint, learner, fingerprint, progress)
        folder.remove_checkpoint_folder()
    else:
        # It takes a second to load, which one process has no use for.
        from sgdm.training.checkpoint_together import save_together  # noqa: PLC0415

        save_together(folder.checkpoint_folder, learner, fingerprint, progress)
        learner.world.by_first(folder.remove_checkpoint_file)


def _load(folder: RunFolder, learner: Learner, fingerprint: str) -> Progress:
    """Put the learner where the checkpoint left it, of whichever kind that is."""
    world = learner.world
    if world.by_first(folder.is_saved_by_several):
        from sgdm.training.checkpoint_together import load_together  # noqa: PLC0415 - as above

        return load_together(folder.checkpoint_folder, learner, fingerprint)
    with world.together():
        return load_checkpoint(folder.checkpoint, learner, fingerprint)


def _go_on(
    folder: RunFolder, learner: Learner, fingerprint: str, progress: Progress, observer: Observer
) -> list[Metrics]:
    world = learner.world
    observer.started(progress.step, learner.total)
    with _deferred_interrupt(world):
        while progress.step < learner.total:
            try:
                batch = learner.step(progress.step)
            except DivergedError as error:
                raise DivergedError(f"{error}; what the run wrote is in {folder.path}") from error
            progress.take(batch)
            observer.stepped(batch)
            if progress.step % learner.per_epoch == 0:
                _end_epoch(folder, learner, fingerprint, progress, observer)
            if world.stops:
                _save(folder, learner, fingerprint, progress)
                raise InterruptedRunError(
                    f"interrupted after {progress.step} of {learner.total} steps; "
                    f"go on with: sgdm train --resume {shlex.quote(str(folder.path))}"
                    + f" --nproc {world.size}" * (world.size > 1)
                    + " --shard" * learner.shard
                )
    return world.by_first(folder.read_metrics)


def _end_epoch(
    folder: RunFolder, learner: Learner, fingerprint: str, progress: Progress, observer: Observer
) -> None:
    metrics = finish_epoch(learner, progress)
    learner.world.by_first(lambda: folder.append(metrics))
    _save(folder, learner, fingerprint, progress)
    learner.world.by_first(lambda: observer.finished_epoch(metrics))


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
def _deferred_interrupt(world: World) -> Generator[None]:
    """Let the first Ctrl-C or SIGTERM wait for the end of the step; a second one acts at once.

    Outside the main thread, where signals do not arrive, nothing is changed.
    """

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler
        world.ask_to_stop()
        signal.signal(number, signal.SIG_DFL)

    world.begin()
    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
    previous = [(number, signal.signal(number, note)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
