"""The curves of a run, drawn in the terminal while it goes on."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from sgdm.errors import InvalidUseError
from sgdm.extras import load_extra
from sgdm.plots.terminal import (
    Chart,
    comparison_charts,
    draw_chart,
    least_width,
    run_charts,
)
from sgdm.training.observer import ComparedEpoch, Observer

if TYPE_CHECKING:
    from sgdm.training.folder import Metrics

__all__ = ["LiveCurves", "check_terminal"]

_HIGHEST, _LOWEST = 14, 3  # lines of curves
_BETWEEN = 2  # spaces after a chart
_AROUND = 2  # lines of a chart beside its curves
_BELOW = 3  # lines of the numbers, of the bar, and of the cursor


def check_terminal() -> None:
    """Refuse, before the run, what curves cannot be drawn in.

    Raises:
        InvalidUseError: If standard output is no terminal, one that cannot be drawn in, or one
            without braille.
        MissingExtraError: If plotille is not installed.
    """
    load_extra("plotille", extra="train")
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    if not sys.stdout.isatty():
        got = "a file or a pipe"
    elif os.environ.get("TERM", "").lower() in ("", "dumb", "unknown"):
        got = f"one with TERM={os.environ.get('TERM', '')!r}"
    elif encoding != "utf8":
        got = f"one with the encoding {sys.stdout.encoding}"
    else:
        return
    raise InvalidUseError(
        f"--live needs standard output to be a UTF-8 terminal whose cursor can be moved, got {got};"
        " leave it out for a line an epoch, or take --tensorboard"
    )


class LiveCurves(Observer):
    """What has been learned so far, as a picture of the terminal's size."""

    def __init__(self) -> None:
        self._rows: list[Metrics] = []
        self._compared: list[Sequence[ComparedEpoch]] = []
        self._drawn: tuple[object, list[Table | Text]] = (None, [])

    def resumed(self, metrics: "Sequence[Metrics]") -> None:
        """Begin with the epochs so far."""
        self._rows.extend(metrics)

    def finished_epoch(self, metrics: "Metrics") -> None:
        """Take in the epoch."""
        self._rows.append(metrics)

    def compared_epoch(self, epochs: int, compared: Sequence[ComparedEpoch]) -> None:  # noqa: ARG002
        """Take in the epoch of every convention."""
        self._compared.append(compared)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw what is new: the bar below asks more often than epochs end."""
        key = len(self._rows), len(self._compared), options.max_width, console.height
        if self._drawn[0] != key:
            self._drawn = key, self._draw(options.max_width, console.height)
        yield from self._drawn[1]

    def _draw(self, width: int, height: int) -> "list[Table | Text]":
        if self._compared:
            last = self._compared[-1][0].metrics
            charts = comparison_charts(self._compared)
        elif self._rows:
            last = self._rows[-1]
            charts = run_charts(self._rows)
        else:
            return []
        numbers = f"epoch {last.epoch}   lr {last.lr:.3g}   momentum {last.momentum:.3g}"
        return [_arranged(charts, width, height), Text(numbers)]


def _arranged(charts: list[Chart], width: int, height: int) -> Table | Text:
    """Put the charts side by side where there is room, and below each other where not."""
    narrowest = max(map(least_width, charts)) + _BETWEEN
    columns = min(len(charts), width // narrowest) or 1
    rows = -(-len(charts) // columns)
    lowest = rows * (max(_LOWEST, len(charts[0].curves)) + _AROUND) + _BELOW
    if width < narrowest or height < lowest:
        return Text(f"the curves need {narrowest} columns and {lowest} lines: enlarge the terminal")
    each, lines = width // columns - _BETWEEN, min(_HIGHEST, (height - _BELOW) // rows - _AROUND)
    drawn = [Text("\n").join(draw_chart(chart, width=each, height=lines)) for chart in charts]
    grid = Table.grid(padding=(0, _BETWEEN, 0, 0))
    for start in range(0, len(drawn), columns):
        grid.add_row(*drawn[start : start + columns])
    return grid
