"""The picture of the benchmark: what a step costs over the number of tensors, and of elements."""

from pathlib import Path
from typing import TYPE_CHECKING

from sgdm.errors import InvalidValueError
from sgdm.plots.style import COLOURS, finish, new_figure, save_figure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from sgdm.bench.results import Row

__all__ = ["draw_bench"]

_SMALL = 256  # elements of each tensor where their number grows
_MARKERS = "osD^v"


def draw_bench(rows: "Sequence[Row]", path: Path) -> None:
    """Draw the time of a step of plain momentum in float32, one line a contestant.

    Args:
        rows: Of one run; those of other rules and shapes are left out.
        path: The picture, in the format of its ending.

    Raises:
        InvalidValueError: If there is nothing to draw.
        FileError: If the picture cannot be written.
        MissingExtraError: If matplotlib is not installed.
    """
    plain = [row for row in rows if (row.rule, row.dtype) == ("momentum", "float32")]
    many = [row for row in plain if row.elements == _SMALL * row.tensors]
    one = [row for row in plain if row.tensors == 1]
    if not (many and one):
        raise InvalidValueError.of(
            "rows", "those of a sweep", sorted({row.case for row in rows}), "run --case sweep"
        )
    figure, (left, right) = new_figure(2, width=10.5, height=4.4, extra="bench")
    names = list(dict.fromkeys(row.contestant for row in plain))
    for i, name in reversed(list(enumerate(names))):  # the first one, sgdm, on top
        colour, marker = COLOURS[i % len(COLOURS)], _MARKERS[i % len(_MARKERS)]
        for axes, chosen, x in ((left, many, _tensors), (right, one, _elements)):
            mine = sorted((row for row in chosen if row.contestant == name), key=x)
            _draw_line(axes, mine, x, name=name, colour=colour, marker=marker)
    finish(
        left,
        title=f"tensors of {_SMALL} elements",
        x="number of tensors",
        y="time of a step, µs",
        legend=False,
    )
    finish(right, title="one tensor", x="number of elements", y="", legend=False)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(
        handles[::-1],
        labels[::-1],
        loc="outside lower center",
        ncols=len(names),
        frameon=False,
        fontsize=9,
    )
    first = rows[0]
    threads = f"{first.threads} thread{'s' * (first.threads > 1)}"
    figure.suptitle(
        f"momentum, float32; {first.cpu}, {threads}, torch {first.torch}", fontsize=10, color="0.35"
    )
    save_figure(figure, path)


def _tensors(row: "Row") -> int:
    return row.tensors


def _elements(row: "Row") -> int:
    return row.elements


def _draw_line(
    axes: "Axes",
    rows: "Sequence[Row]",
    x: "Callable[[Row], int]",
    *,
    name: str,
    colour: str,
    marker: str,
) -> None:
    """Draw the medians, and a band from the 20th to the 80th percentile."""
    at = [x(row) for row in rows]
    axes.plot(
        at,
        [1e6 * row.median for row in rows],
        color=colour,
        marker=marker,
        markersize=4.5,
        linewidth=1.6,
        label=name,
    )
    axes.fill_between(
        at,
        [1e6 * row.q20 for row in rows],
        [1e6 * row.q80 for row in rows],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
