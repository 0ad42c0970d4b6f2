"""The picture of `sgdm.figures.nag_steps`: θ and y in turn."""

from typing import TYPE_CHECKING, Any

from sgdm.plots.style import COLOURS, new_figure
from sgdm.plots.surface import around, arrow, contours, mark
from sgdm.surfaces import get_surface

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sgdm.figures.nag_steps import NagSteps

__all__ = ["draw_nag_steps"]

_DOT: dict[str, Any] = {"marker": "o", "markersize": 6, "markeredgecolor": "0", "zorder": 3}
_GRADIENT = r"(4)  $\theta_{t+1} = y_t - \varepsilon\nabla f(y_t)$"
_MOMENTUM = r"(5)  $y_{t+1} = \theta_{t+1} + \mu(\theta_{t+1} - \theta_t)$"


def draw_nag_steps(numbers: "NagSteps") -> "Figure":
    """Draw every gradient step from y to θ and every momentum step from θ to y.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, (axes,) = new_figure(1, width=8.0, height=4.4, extra="plot")
    contours(
        axes,
        get_surface("quadratic"),
        {"condition_number": numbers.condition_number},
        bounds=around([*numbers.theta, *numbers.y]),
        levels=24,
    )
    for t in range(len(numbers.y) - 1):
        arrow(axes, numbers.y[t], numbers.theta[t + 1], colour=COLOURS[0])
        arrow(axes, numbers.theta[t + 1], numbers.y[t + 1], colour=COLOURS[1], style=(0, (4, 2)))
    for t, (theta, y) in enumerate(zip(numbers.theta, numbers.y, strict=True)):
        axes.plot(*theta, **_DOT, color="0")
        if t == 0:
            mark(axes, r"$\theta_0 = y_0$", theta, shift=(30, 6))
        else:
            axes.plot(*y, **_DOT, color="1")
            mark(axes, rf"$\theta_{{{t}}}$", theta, shift=(8, 11))
            mark(axes, rf"$y_{{{t}}}$", y, shift=(-4, -13))
    axes.plot([], [], color=COLOURS[0], label=_GRADIENT)
    axes.plot([], [], color=COLOURS[1], linestyle=(0, (4, 2)), label=_MOMENTUM)
    axes.legend(framealpha=1, edgecolor="1", loc="upper right", fontsize=11)
    axes.set_aspect("equal")
    axes.set_axis_off()
    return figure
