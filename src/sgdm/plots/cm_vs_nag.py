"""The picture of `sgdm.figures.cm_vs_nag`: the vectors of one step in two ways."""

from typing import TYPE_CHECKING

from sgdm.plots.style import COLOURS, new_figure
from sgdm.plots.surface import around, arrow, contours, mark, mark_arrow
from sgdm.surfaces import get_surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sgdm.figures.cm_vs_nag import CmVsNag, Vectors
    from sgdm.figures.descent import Point

__all__ = ["draw_cm_vs_nag"]

_TITLES = ("classical momentum (3')", "Nesterov (6)(7)")
_POINTS = (r"\theta_t", r"\theta_t + \mu v_t")


def draw_cm_vs_nag(numbers: "CmVsNag") -> "Figure":
    """Draw both steps, side by side.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, both = new_figure(2, height=3.9, extra="plot")
    steps = (numbers.classical, numbers.nesterov)
    points = [numbers.theta, *(point for step in steps for point in (step.ahead, step.end))]
    for axes, step, title, point in zip(both, steps, _TITLES, _POINTS, strict=True):
        contours(
            axes,
            get_surface("quadratic"),
            {"condition_number": numbers.condition_number},
            bounds=around(points),
            levels=40,
        )
        _draw(axes, numbers.theta, step, rf"$-\varepsilon\nabla f({point})$")
        axes.set_title(title, fontsize=11)
        axes.set_aspect("equal")
        axes.set_axis_off()
    return figure


def _draw(axes: "Axes", theta: "Point", step: "Vectors", gradient: str) -> None:
    (x, y), (g, h) = step.seen_at, step.move
    arrow(axes, theta, step.ahead, colour=COLOURS[1])
    mark_arrow(axes, r"$\mu v_t$", theta, step.ahead, colour=COLOURS[1], left=False)
    if step.seen_at == theta:  # taken at θ, it is carried to where the momentum ends
        arrow(axes, theta, (x + g, y + h), colour=COLOURS[0], style=(0, (3, 2)), width=1.2)
    arrow(axes, step.ahead, step.end, colour=COLOURS[0])
    mark_arrow(
        axes, gradient, (x, y), (x + g, y + h), colour=COLOURS[0], left=step.seen_at == theta
    )
    arrow(axes, theta, step.end, colour="0")
    mark_arrow(axes, r"$v_{t+1}$", theta, step.end, colour="0", left=True)
    for point, text, shift in (
        (theta, r"$\theta_t$", (-2, 11)),
        (step.ahead, r"$\theta_t + \mu v_t$", (-28, -8)),
        (step.end, r"$\theta_{t+1}$", (17, 5)),
    ):
        axes.plot(*point, marker="o", color="0", markersize=4)
        mark(axes, text, point, shift=shift)
