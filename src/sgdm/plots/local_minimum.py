"""The picture of `sgdm.figures.local_minimum`: two balls on a slope."""

from typing import TYPE_CHECKING

from sgdm.plots.style import COLOURS, finish, new_figure
from sgdm.surfaces import get_surface

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sgdm.figures.local_minimum import LocalMinimum

__all__ = ["draw_local_minimum"]


def draw_local_minimum(numbers: "LocalMinimum") -> "Figure":
    """Draw the loss with every step on it and, beside it, the parameter over the steps.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, (slope, steps) = new_figure(2, extra="plot")
    left, right, _, _ = get_surface("local-minimum").bounds
    dense = [left + (right - left) * i / 400 for i in range(401)]
    slope.plot(dense, [numbers.value(x) for x in dense], color="0.55", linewidth=1.4)
    runs = (
        (numbers.with_momentum, COLOURS[0], "1", 6.5, rf"$\mu = {numbers.momentum:g}$"),
        (numbers.plain, COLOURS[1], COLOURS[1], 3.5, r"$\mu = 0$"),
    )
    for path, colour, fill, size, label in runs:
        slope.plot(
            path,
            [numbers.value(x) for x in path],
            color=fill,
            marker="o",
            markersize=size,
            markeredgecolor=colour,
            linestyle="",
            label=label,
        )
        steps.plot(range(len(path)), path, color=colour, linewidth=1.8, label=label)
    slope.set_ylim(-3.1, 3.4)
    slope.set_xlim(left, right)
    finish(slope, title="every step on the loss", x=r"$\theta$", y=r"$L(\theta)$")
    last = len(numbers.plain) - 1
    for height, side, name in ((-1, "bottom", "local minimum"), (2, "top", "minimum")):
        steps.axhline(height, color="0.6", linewidth=0.9, linestyle=":")
        shift = 0.07 if side == "bottom" else -0.07
        steps.text(last, height + shift, name, ha="right", va=side, color="0.35")
    finish(steps, title="the parameter", x="step", y=r"$\theta_t$", legend=False)
    return figure
