"""Curves in a terminal: dots of braille, each curve named at its end with its last number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from sgdm.extras import load_extra
from sgdm.plots.style import COLOURS

if TYPE_CHECKING:
    from sgdm.training.folder import Metrics
    from sgdm.training.observer import ComparedEpoch

__all__ = ["Chart", "Curve", "comparison_charts", "draw_chart", "least_width", "run_charts"]

_EMPTY = "\u2800"  # braille without a dot
_ACROSS, _UP = 2, 4  # dots of a character
_AXIS = " │"
_COLOURS = COLOURS[:-1]  # black would not be seen on black
_LONGEST = 9  # characters of a number, as in 1.234e-05
_NARROWEST = 16  # characters of dots that still show a curve


@dataclass(frozen=True, slots=True)
class Curve:
    """A number an epoch, from the first epoch on."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves on the same axes.

    Attributes:
        title: What the numbers are.
        curves: At least one.
        logarithmic: Whether the axis is; what is not positive is not drawn on it then.
    """

    title: str
    curves: tuple[Curve, ...]
    logarithmic: bool = False


def run_charts(rows: "Sequence[Metrics]") -> list[Chart]:
    """Return loss and accuracy of a run, train and test."""
    losses = (
        Curve("train", tuple(row.train_loss for row in rows)),
        Curve("test", tuple(row.test_loss for row in rows)),
    )
    accuracies = (
        Curve("train", tuple(100 * row.train_accuracy for row in rows)),
        Curve("test", tuple(100 * row.test_accuracy for row in rows)),
    )
    return [Chart("loss", losses, logarithmic=True), Chart("accuracy, %", accuracies)]


def comparison_charts(epochs: "Sequence[Sequence[ComparedEpoch]]") -> list[Chart]:
    """Return loss, accuracy and distance of a comparison, a curve a convention."""
    runs = list(zip(*epochs, strict=True))
    names = [run[0].name for run in runs]
    losses = [tuple(one.metrics.train_loss for one in run) for run in runs]
    accuracies = [tuple(100 * one.metrics.test_accuracy for one in run) for run in runs]
    distances = [tuple(one.distance for one in run) for run in runs]
    return [
        Chart("training loss", tuple(map(Curve, names, losses)), logarithmic=True),
        Chart("test accuracy, %", tuple(map(Curve, names, accuracies))),
        # The first convention is in it, at 0, so that a curve has one colour in all charts.
        Chart(f"distance from {names[0]}", tuple(map(Curve, names, distances)), logarithmic=True),
    ]


def least_width(chart: Chart) -> int:
    """Return how many characters a chart needs across, whatever its numbers will be."""
    name = max(len(curve.name) for curve in chart.curves)
    return _LONGEST + len(_AXIS) + _NARROWEST + 1 + name + 1 + _LONGEST


def draw_chart(chart: Chart, *, width: int, height: int) -> list[Text]:
    """Draw a chart as lines of text: the title, the curves, the epochs.

    Args:
        chart: What to draw.
        width: Of the whole, in characters; no less than `least_width`.
        height: Lines between title and epochs; more where there are more curves than lines.

    Raises:
        MissingExtraError: If plotille is not installed.
    """
    height = max(height, len(chart.curves))
    scaled = [_scaled(curve.values, logarithmic=chart.logarithmic) for curve in chart.curves]
    low, high = _limits(scaled)
    ticks = _ticks(low, high, height, logarithmic=chart.logarithmic)
    left = max(map(len, ticks))
    right = max(len(_ending(curve)) for curve in chart.curves)
    inner = width - left - len(_AXIS) - 1 - right
    placed = [[(v - low) / (high - low) for v in values] for values in scaled]
    dots = [_dots(curve, width=inner, height=height) for curve in placed]
    endings = _endings(chart, placed, height)
    margin = " " * (left + len(_AXIS))
    lines = [Text(margin + chart.title, style="bold")]
    for row in range(height):
        line = Text(f"{ticks[row]:>{left}}{_AXIS}")
        line.append_text(_overlaid([drawn[row] for drawn in dots])).append(" ")
        lines.append(line.append_text(endings[row]))
    last = str(len(chart.curves[0].values))
    lines.append(Text(margin + "1" + last.rjust(inner - 1) * (last != "1") + " epoch"))
    return lines


def _scaled(values: Sequence[float], *, logarithmic: bool) -> list[float]:
    """Return what is drawn: logarithms, and NaN for what cannot be."""
    if not logarithmic:
        return [v if math.isfinite(v) else math.nan for v in values]
    return [math.log10(v) if v > 0 and math.isfinite(v) else math.nan for v in values]


def _limits(scaled: Sequence[Sequence[float]]) -> tuple[float, float]:
    numbers = [v for values in scaled for v in values if not math.isnan(v)]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 0.0)
    room = 0.0 if high - low > 1e-9 * max(abs(low), abs(high)) else 0.05 * max(abs(high), 1.0)
    return low - room, high + room


def _ticks(low: float, high: float, height: int, *, logarithmic: bool) -> list[str]:
    """Return the words before each line: a number at the top, in the middle and at the bottom."""
    words = [""] * height
    for row in {0, (height - 1) // 2, height - 1}:
        value = high - (high - low) * row / max(1, height - 1)
        words[row] = f"{10**value:.3g}" if logarithmic else f"{value:.4g}"
    return words


def _dots(placed: Sequence[float], *, width: int, height: int) -> list[str]:
    """Return the lines of one curve, of numbers from 0, the bottom, to 1; NaN is a gap."""
    across, up = _ACROSS * width - 1, _UP * height - 1
    plotille = load_extra("plotille", extra="train")
    canvas = plotille.Canvas(width, height, 0, 0, _ACROSS * width, _UP * height)
    points = [
        (round(across * i / max(1, len(placed) - 1)), v if math.isnan(v) else round(up * v))
        for i, v in enumerate(placed)
    ]
    for (x0, y0), (x1, y1) in zip(points[:1] + points, points, strict=False):
        if not math.isnan(y1):
            canvas.line(*((x1, y1) if math.isnan(y0) else (x0, y0)), x1, y1)
    return canvas.plot(linesep="\n").split("\n")


def _overlaid(lines: Sequence[str]) -> Text:
    """Lay the same line of every curve over each other; a character has the last one's colour."""
    text = Text()
    for characters in zip(*lines, strict=True):
        bits, colour = ord(_EMPTY), ""
        for i, character in enumerate(characters):
            if character != _EMPTY:
                bits, colour = bits | ord(character), _colour(i)
        text.append(chr(bits), style=colour)
    return text


def _endings(chart: Chart, placed: Sequence[Sequence[float]], height: int) -> list[Text]:
    """Return the words after each line: each curve's beside its end, or as near as there is room.

    They tell the curves apart where there are no colours.
    """
    ends = [0.0 if math.isnan(values[-1]) else values[-1] for values in placed]
    order = sorted(range(len(ends)), key=lambda i: -ends[i])
    lines = [Text() for _ in range(height)]
    free = 0
    for rank, i in enumerate(order):
        lowest = height - (len(order) - rank)  # leaves a line for each of those below
        row = min(max(round((1 - ends[i]) * (height - 1)), free), lowest)
        lines[row] = Text(_ending(chart.curves[i]), style=_colour(i))
        free = row + 1
    return lines


def _ending(curve: Curve) -> str:
    return f"{curve.name} {curve.values[-1]:.3g}"


def _colour(i: int) -> str:
    return _COLOURS[i % len(_COLOURS)]
