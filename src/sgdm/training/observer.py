"""Who is told what happens in a run: nobody, or several at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from sgdm.training.folder import Metrics
from sgdm.training.learner import Batch

__all__ = ["ComparedEpoch", "Observer", "Together"]


@dataclass(frozen=True, slots=True)
class ComparedEpoch:
    """Where one convention of a comparison stands at the end of an epoch.

    Attributes:
        name: As given.
        metrics: As of a run of its own.
        distance: Of the parameters from the first convention's, relative to their size.
        predicted: The same distance if the gradients were the first convention's.
    """

    name: str
    metrics: Metrics
    distance: float
    predicted: float


class Observer:
    """Is told what happens in a run; this one does not care."""

    def resumed(self, metrics: Sequence[Metrics]) -> None:
        """A run is about to go on, after these epochs."""

    def started(self, step: int, total: int) -> None:
        """A run begins, or goes on, after `step` of `total` steps."""

    def stepped(self, batch: Batch) -> None:
        """A step was taken."""

    def finished_epoch(self, metrics: Metrics) -> None:
        """An epoch is over, evaluated and saved."""

    def compared_epoch(self, epochs: int, compared: Sequence[ComparedEpoch]) -> None:
        """An epoch, one of `epochs`, of all the conventions of a comparison is over."""


class Together(Observer):
    """Tells several observers, in the order given."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def resumed(self, metrics: Sequence[Metrics]) -> None:
        """Tell every one."""
        for observer in self._observers:
            observer.resumed(metrics)

    def started(self, step: int, total: int) -> None:
        """Tell every one."""
        for observer in self._observers:
            observer.started(step, total)

    def stepped(self, batch: Batch) -> None:
        """Tell every one."""
        for observer in self._observers:
            observer.stepped(batch)

    def finished_epoch(self, metrics: Metrics) -> None:
        """Tell every one."""
        for observer in self._observers:
            observer.finished_epoch(metrics)

    def compared_epoch(self, epochs: int, compared: Sequence[ComparedEpoch]) -> None:
        """Tell every one."""
        for observer in self._observers:
            observer.compared_epoch(epochs, compared)
