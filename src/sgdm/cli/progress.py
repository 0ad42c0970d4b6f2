"""What a person sees of a run: a bar in a terminal, a line an epoch elsewhere."""

import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import typer
from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from sgdm.training.observer import ComparedEpoch, Observer

if TYPE_CHECKING:
    from sgdm.training.folder import Metrics
    from sgdm.training.learner import Batch

__all__ = ["ShownProgress"]

_RECENT = 50  # steps that the shown loss, accuracy and speed are averaged over, about


class ShownProgress(Observer):
    """Shows loss, accuracy and steps per second; use it as a context.

    Args:
        above: What else is shown in a terminal, above the bar.
    """

    def __init__(self, above: RenderableType | None = None) -> None:
        self._bar = _Bar(
            above,
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
        )
        self._task: TaskID | None = None
        self._in_terminal = sys.stdout.isatty()
        self._loss = self._accuracy = self._weight = 0.0
        self._steps, self._since = 0, time.perf_counter()

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._in_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        if self._in_terminal:
            self._bar.stop()

    def started(self, step: int, total: int) -> None:
        """Show where the run begins."""
        self._since = time.perf_counter()
        if self._in_terminal:
            self._task = self._bar.add_task("training", total=total, completed=step, state="")

    def stepped(self, batch: "Batch") -> None:
        """Take in a step."""
        keep = 1 - 1 / _RECENT
        self._loss = keep * self._loss + (1 - keep) * batch.loss
        self._accuracy = keep * self._accuracy + (1 - keep) * batch.correct / batch.size
        self._weight = keep * self._weight + (1 - keep)
        self._steps += 1
        if self._task is not None:
            state = (
                f"loss {self._loss / self._weight:.4f}  "
                f"accuracy {100 * self._accuracy / self._weight:.1f} %  {self._speed():.0f} steps/s"
            )
            self._bar.update(self._task, advance=1, state=state)

    def finished_epoch(self, metrics: "Metrics") -> None:
        """Say how the epoch went."""
        if not self._in_terminal:
            typer.echo(
                f"epoch {metrics.epoch}: loss {metrics.train_loss:.4f}, "
                f"accuracy {100 * metrics.train_accuracy:.1f} %, "
                f"test accuracy {100 * metrics.test_accuracy:.1f} %, {self._speed():.0f} steps/s"
            )

    def compared_epoch(self, epochs: int, compared: Sequence[ComparedEpoch]) -> None:
        """Say how far a comparison is."""
        if not self._in_terminal:
            typer.echo(
                f"epoch {compared[0].metrics.epoch} of {epochs}: {self._speed():.0f} steps/s"
            )

    def _speed(self) -> float:
        return self._steps / max(time.perf_counter() - self._since, 1e-9)


class _Bar(Progress):
    """A bar with something above it, drawn together."""

    def __init__(self, above: RenderableType | None, *columns: ProgressColumn) -> None:
        self._above = above
        super().__init__(*columns)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what is drawn, from the top down."""
        if self._above is not None:
            yield self._above
        yield from super().get_renderables()
