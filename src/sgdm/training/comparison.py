"""Several conventions on one problem: the same weights and batches, float64, side by side.

Beside the measured distance stands the one that the algebra predicts: what the conventions'
recurrences do to the same gradients, those of the first. In that sense a drop of the learning rate
from ε_1 to ε_2 leaves torch and caffe apart by μ(1-μⁿ)/(1-μ)·(ε_1-ε_2)·v after n steps; then the
gradients answer to the gap, and the measured one goes its own way.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sgdm.errors import DivergedError, InvalidValueError
from sgdm.files import write_atomically
from sgdm.rule_name import parse_rule
from sgdm.training.checkpoint import Progress
from sgdm.training.data import load_data
from sgdm.training.folder import RunFolder
from sgdm.training.learner import Batch, Learner, Score, make_optimizer
from sgdm.training.lr_schedule import drop_steps
from sgdm.training.observer import ComparedEpoch, Observer
from sgdm.training.run import finish_epoch
from sgdm.training.settings import Settings
from sgdm.training.world import World

__all__ = ["Comparison", "Trace", "compare", "parse_conventions"]

PARTED = 1e-6


@dataclass(slots=True)
class Trace:
    """One convention's run.

    Attributes:
        name: As given: a convention, with ":nesterov" where its Nesterov form was asked for.
        losses: Training loss of every step.
        distances: Of the parameters from the first convention's, relative to their size, after
            every step.
        predicted: The same distance if the gradients were the first convention's.
        score: On the test examples, at the end.
    """

    name: str
    losses: list[float] = field(default_factory=list[float])
    distances: list[float] = field(default_factory=list[float])
    predicted: list[float] = field(default_factory=list[float])
    score: Score | None = None

    @property
    def parted(self) -> int | None:
        """The first step after which the distance is over 1e-6, counted from 1; None if none."""
        # Not "greater": a distance that is not a number is no closeness.
        over = (i for i, distance in enumerate(self.distances, 1) if not distance <= PARTED)
        return next(over, None)


@dataclass(slots=True)
class Comparison:
    """All runs, in the order given; the others are measured against the first.

    Attributes:
        traces: One a convention.
        lrs: The learning rate of every step.
        drops: After how many steps it drops, under the schedule "steps".
    """

    traces: list[Trace]
    lrs: list[float]
    drops: list[int]


def parse_conventions(text: str) -> list[str]:
    """Split "torch,caffe:nesterov" into names.

    Raises:
        InvalidValueError: If fewer than two are left, or one stands twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InvalidValueError.of(
            "conventions",
            "two different ones or more, with commas between",
            text,
            "as in torch,caffe,torch:nesterov",
        )
    return names


def compare(
    settings: Settings,
    names: Sequence[str],
    path: Path,
    *,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> Comparison:
    """Train every convention on the same weights and batches, in float64.

    Args:
        settings: Of every run but for the convention.
        names: Conventions, each with ":nesterov" for its Nesterov form.
        path: The folder of the run; its numbers are written at the end, or when a run diverges.
        overwrite: Replace a run that is there.
        observer: Is told of every step of the first convention, and of every epoch of all.

    Raises:
        InvalidValueError: If a setting has no place in a convention.
        FileError: If the data or the place cannot be used.
        DivergedError: If a run diverges; what was measured until then is written.
    """
    folder = RunFolder(path)
    with folder.held(World(), "out"):
        folder.refuse_existing(overwrite=overwrite)
        return _compare(settings, names, folder, observer or Observer())


def _compare(
    settings: Settings, names: Sequence[str], folder: RunFolder, observer: Observer
) -> Comparison:
    data = load_data(settings.data, seed=settings.seed)
    each = [_settings_of(settings, name) for name in names]
    if len(set(each)) < len(each):
        raise InvalidValueError.of(
            "conventions", "different from each other", ",".join(names), "leave out what is twice"
        )
    learners = [Learner(own, data, dtype=torch.float64) for own in each]
    shadows = [_Shadow(learner) for learner in learners[1:]]
    traces = [Trace(name) for name in names]
    first = learners[0]
    comparison = Comparison(traces, [], _drops(settings, first.total))
    progresses = [Progress() for _ in learners]
    compared: list[ComparedEpoch] = []
    with folder.begin(World()) as new:
        _write(new, settings, comparison)
    observer.started(0, first.total)
    try:
        for t in range(first.total):
            for learner, trace, progress in zip(learners, traces, progresses, strict=True):
                batch = _step(learner, trace.name, t)
                progress.take(batch)
                trace.losses.append(batch.loss)
                if learner is first:
                    observer.stepped(batch)
            comparison.lrs.append(float(first.optimizer.param_groups[0]["lr"]))
            _measure(learners, shadows, traces)
            if (t + 1) % first.per_epoch == 0:
                compared = list(map(_finish_epoch, learners, progresses, traces))
                observer.compared_epoch(settings.epochs, compared)
        for trace, one in zip(traces, compared, strict=True):
            trace.score = Score(one.metrics.test_loss, one.metrics.test_accuracy)
    finally:
        _write(folder, settings, comparison)
    return comparison


class _Shadow:
    """A convention that is fed the first convention's gradients, and takes no others."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self.params = [nn.Parameter(p.detach().clone()) for p in learner.model.parameters()]
        self._optimizer = make_optimizer(learner.settings, self.params)

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Follow the learner's hyperparameters with other gradients."""
        own, followed = self._optimizer.param_groups[0], self._learner.optimizer.param_groups[0]
        own["lr"], own["momentum"] = followed["lr"], followed["momentum"]
        for p, gradient in zip(self.params, gradients, strict=True):
            p.grad = gradient
        self._optimizer.step(lambda: None)

    def flat(self) -> Tensor:
        """Return the parameters at the point where the learner's are evaluated."""
        with self._learner.at_evaluation_point(self._optimizer):
            return _flat(self.params)


def _step(learner: Learner, name: str, t: int) -> Batch:
    try:
        return learner.step(t)
    except DivergedError as error:
        raise DivergedError(f"{name}: {error}") from error


def _finish_epoch(learner: Learner, progress: Progress, trace: Trace) -> ComparedEpoch:
    metrics = finish_epoch(learner, progress)
    return ComparedEpoch(trace.name, metrics, trace.distances[-1], trace.predicted[-1])


def _measure(learners: list[Learner], shadows: list[_Shadow], traces: list[Trace]) -> None:
    gradients = [p.grad for p in learners[0].model.parameters()]
    for shadow in shadows:
        shadow.step(gradients)
    points: list[Tensor] = []
    for learner in learners:
        with learner.at_evaluation_point():
            points.append(_flat(learner.model.parameters()))
    ahead = [points[0], *(shadow.flat() for shadow in shadows)]
    for trace, point, predicted in zip(traces, points, ahead, strict=True):
        trace.distances.append(_relative_distance(point, points[0]))
        trace.predicted.append(_relative_distance(predicted, points[0]))


def _relative_distance(a: Tensor, b: Tensor) -> float:
    distance = torch.dist(a, b).item()
    return distance / torch.dist(b, torch.zeros_like(b)).item() if distance else 0.0


def _flat(params: Iterable[Tensor]) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in params])


def _settings_of(settings: Settings, name: str) -> Settings:
    convention, nesterov = parse_rule(name)
    return replace(settings, convention=convention, nesterov=settings.nesterov or nesterov)


def _drops(settings: Settings, total: int) -> list[int]:
    return drop_steps(settings, total) if settings.lr_schedule == "steps" else []


def _write(folder: RunFolder, settings: Settings, comparison: Comparison) -> None:
    lines = ["step,lr,convention,loss,distance,predicted"]
    for trace in comparison.traces:
        columns = (comparison.lrs, trace.losses, trace.distances, trace.predicted)
        for step, (lr, loss, distance, predicted) in enumerate(zip(*columns, strict=False), 1):
            lines.append(f"{step},{lr!r},{trace.name},{loss!r},{distance!r},{predicted!r}")
    text = "\n".join(lines) + "\n"
    write_atomically(folder.compare_csv, lambda file: file.write(text.encode()))
    scores = {trace.name: trace.score and asdict(trace.score) for trace in comparison.traces}
    folder.write_settings(settings, conventions=list(scores), scores=scores)
