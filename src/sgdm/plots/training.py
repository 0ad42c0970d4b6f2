"""The pictures of the training job: the curves of one run, and several conventions side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sgdm.plots.style import COLOURS, finish, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sgdm.training.comparison import Comparison, Trace
    from sgdm.training.folder import Metrics

__all__ = ["draw_comparison", "draw_curves"]


def draw_curves(metrics: "Sequence[Metrics]", path: Path, *, title: str) -> None:
    """Draw loss, accuracy and learning rate of a run over its epochs.

    Raises:
        FileError: If the picture cannot be written.
        MissingExtraError: If matplotlib is not installed.
    """
    figure, (losses, accuracies, rates) = new_figure(3, width=12.0)
    epochs = [row.epoch for row in metrics]
    mark = "o" if len(epochs) == 1 else ""  # one epoch is a point, not a line
    for axes, field, y in ((losses, "loss", "cross entropy"), (accuracies, "accuracy", "%")):
        factor = 100.0 if field == "accuracy" else 1.0
        for colour, part in zip(COLOURS, ("train", "test"), strict=False):
            values = [factor * getattr(row, f"{part}_{field}") for row in metrics]
            axes.plot(epochs, values, color=colour, label=part, marker=mark)
        finish(axes, title=field, x="epoch", y=y)
    losses.set_yscale("log")
    rates.plot(epochs, [row.lr for row in metrics], color=COLOURS[2], label="ε", marker=mark)
    rates.plot(epochs, [row.momentum for row in metrics], color=COLOURS[3], label="μ", marker=mark)
    finish(rates, title="learning rate ε, momentum μ", x="epoch", y="")
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def draw_comparison(comparison: "Comparison", path: Path) -> None:
    """Draw the losses of every convention, and its distance from the first, over the steps.

    Raises:
        FileError: If the picture cannot be written.
        MissingExtraError: If matplotlib is not installed.
    """
    figure, (losses, distances) = new_figure(2, width=12.0, height=4.2)
    for colour, trace in zip(_cycled(comparison), comparison.traces, strict=True):
        smooth = smoothed(trace.losses)
        # Thinner and thinner: where runs coincide, every one still shows.
        width = max(1.0, 3.4 - 1.1 * len(losses.lines))
        losses.plot(
            range(1, len(smooth) + 1), smooth, color=colour, label=trace.name, linewidth=width
        )
    first = comparison.traces[0].name
    for colour, trace in list(zip(_cycled(comparison), comparison.traces, strict=True))[1:]:
        _draw_distance(distances, colour, trace)
    for axes in (losses, distances):
        if any(value > 0 for line in axes.lines for value in line.get_ydata()):
            axes.set_yscale("log")
        for i, drop in enumerate(comparison.drops):
            label = "ε drops" if i == 0 and axes is losses else None
            axes.axvline(drop, color="0.5", linewidth=0.8, linestyle=":", label=label)
    finish(losses, title="training loss, smoothed", x="step", y="cross entropy")
    finish(
        distances,
        title=f"distance from {first}: measured, and predicted for the same gradients",
        x="step",
        y="relative to |θ|",
    )
    if distances.get_yscale() == "log":
        distances.set_ylim(bottom=1e-17)
    save_figure(figure, path)


def _draw_distance(axes: "Axes", colour: str, trace: "Trace") -> None:
    steps = range(1, len(trace.distances) + 1)
    axes.plot(steps, trace.distances, color=colour, label=trace.name, linewidth=1.6)
    axes.plot(
        steps,
        trace.predicted,
        color=colour,
        label=f"{trace.name}, predicted",
        linewidth=1.1,
        linestyle="--",
    )


def smoothed(values: Sequence[float], keep: float = 0.95) -> list[float]:
    """Return the exponential average of what came before, without the pull of its start.

    Example:
        >>> smoothed([1.0, 1.0, 4.0], keep=0.5)
        [1.0, 1.0, 2.7142857142857144]
    """
    total, weight, smooth = 0.0, 0.0, list[float]()
    for value in values:
        total = keep * total + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        smooth.append(total / weight)
    return smooth


def _cycled(comparison: "Comparison") -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(comparison.traces))]
