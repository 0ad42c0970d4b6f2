"""A surface seen from above: its contours, with paths and arrows on them."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sgdm.extras import load_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sgdm.figures.descent import Point
    from sgdm.surfaces import Surface

__all__ = ["around", "arrow", "contours", "mark", "mark_arrow"]

Bounds = tuple[float, float, float, float]
_MARGIN = 0.12  # of the larger extent
# Above the contours, below all else.
_BEHIND: dict[str, Any] = {"facecolor": "1", "edgecolor": "none", "pad": 0.5}


def contours(
    axes: "Axes",
    surface: "Surface",
    parameters: Mapping[str, float],
    *,
    bounds: Bounds | None = None,
    levels: int = 14,
) -> None:
    """Draw lines of equal height, close together at the minimum.

    Args:
        axes: Where.
        surface: What.
        parameters: What it is shaped by.
        bounds: Of x and of y; None for the surface's own.
        levels: How many lines.
    """
    numpy: Any = load_extra("numpy", extra="plot")
    left, right, bottom, top = bounds or surface.bounds
    x, y = numpy.meshgrid(numpy.linspace(left, right, 241), numpy.linspace(bottom, top, 241))
    height = surface.value(x, y, **parameters) - surface.value(*surface.minimum, **parameters)
    heights = numpy.geomspace(float(height.max()) / 3000, float(height.max()), levels)
    axes.contour(x, y, height, levels=heights, colors="0.82", linewidths=0.7, zorder=0)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def around(points: "Iterable[Point]") -> Bounds:
    """Return the bounds of the points with a margin."""
    x, y = zip(*points, strict=True)
    margin = _MARGIN * max(max(x) - min(x), max(y) - min(y))
    return min(x) - margin, max(x) + margin, min(y) - margin, max(y) + margin


def arrow(
    axes: "Axes", start: "Point", end: "Point", *, colour: str, style: Any = "-", width: float = 1.8
) -> None:
    """Draw an arrow between two points."""
    axes.annotate(
        "",
        xy=end,
        xytext=start,
        arrowprops={
            "arrowstyle": "-|>,head_length=0.55,head_width=0.22",
            "color": colour,
            "linestyle": style,
            "linewidth": width,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )


def mark(axes: "Axes", text: str, at: "Point", *, shift: "Point") -> None:
    """Write a symbol beside a point, `shift` typographic points away."""
    axes.annotate(
        text,
        xy=at,
        xytext=shift,
        textcoords="offset points",
        fontsize=11,
        bbox=_BEHIND,
        zorder=1,
        ha="center",
        va="center",
    )


def mark_arrow(
    axes: "Axes", text: str, start: "Point", end: "Point", *, colour: str, left: bool
) -> None:
    """Write a symbol beside the middle of an arrow, on its left or right as seen along it."""
    (x, y), length = (end[0] - start[0], end[1] - start[1]), math.dist(start, end)
    across, up = (-y / length, x / length) if left else (y / length, -x / length)
    axes.annotate(
        text,
        xy=((start[0] + end[0]) / 2, (start[1] + end[1]) / 2),
        xytext=(6 * across, 6 * up),
        textcoords="offset points",
        color=colour,
        fontsize=11,
        bbox=_BEHIND,
        zorder=1,
        ha=_aligned(across, "left", "right"),
        va=_aligned(up, "bottom", "top"),
    )


def _aligned(shift: float, low: Any, high: Any) -> Any:
    """Return the side of a text that is to stand where it was shifted to."""
    return "center" if abs(shift) < 0.35 else low if shift > 0 else high
