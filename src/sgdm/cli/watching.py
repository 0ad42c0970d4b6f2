"""How a run is watched: in all the ways that were asked for, as one observer."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sgdm.cli.live import LiveCurves, check_terminal
from sgdm.cli.progress import ShownProgress
from sgdm.training.folder import RunFolder
from sgdm.training.observer import Observer, Together
from sgdm.training.tensorboard import TensorBoard

__all__ = ["watching"]


@contextmanager
def watching(path: Path, *, live: bool, tensorboard: bool) -> Generator[Observer]:
    """Watch the run that is kept at `path`; what cannot be is said before it begins.

    Args:
        path: The run's folder.
        live: Draw its curves above the bar.
        tensorboard: Write its scalars.

    Raises:
        InvalidUseError: If there is no terminal to draw curves in.
        MissingExtraError: If something is not installed.
    """
    observers: list[Observer] = []
    with ExitStack() as stack:
        if tensorboard:
            board = TensorBoard(RunFolder(path).tensorboard)
            stack.callback(board.close)
            observers.append(board)
        curves = None
        if live:
            check_terminal()
            curves = LiveCurves()
            observers.append(curves)
        observers.append(stack.enter_context(ShownProgress(above=curves)))
        yield Together(observers)
