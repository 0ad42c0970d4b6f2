"""The picture of `sgdm.figures.overfitting`: two fits, and how large their coefficients are."""

from typing import TYPE_CHECKING

from sgdm.plots.style import COLOURS, finish, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sgdm.figures.overfitting import Overfitting

__all__ = ["draw_overfitting"]


def draw_overfitting(numbers: "Overfitting") -> "Figure":
    """Draw the curves and, beside them, the sizes of the coefficients.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, (curves, sizes) = new_figure(2, extra="plot")
    dense = [i / 200 for i in range(-200, 201)]
    curves.plot(
        dense,
        [numbers.truth(x) for x in dense],
        color="0.6",
        linestyle="--",
        label=r"$\sin\,\pi x$",
    )
    fits = ((numbers.free, COLOURS[1], "o", -0.12), (numbers.penalized, COLOURS[0], "s", 0.12))
    every = [abs(theta) for fit, *_ in fits for theta in fit.theta]
    floor = min(every) / 2
    for fit, colour, marker, shift in fits:
        label = rf"$\lambda = {fit.weight_decay:g}$"
        curves.plot(dense, [fit.at(x) for x in dense], color=colour, linewidth=1.8, label=label)
        at = [i + shift for i in range(len(fit.theta))]
        height = [abs(theta) for theta in fit.theta]
        sizes.vlines(at, floor, height, color=colour, linewidth=1.4)
        sizes.plot(at, height, color=colour, marker=marker, linestyle="", label=label)
    curves.plot(numbers.x, numbers.y, color="0", marker="o", markersize=4.5, linestyle="")
    curves.set_xticks([-1, -0.5, 0, 0.5, 1])
    finish(curves, title="the fit", x="$x$", y="$y$")
    sizes.set_yscale("log")
    sizes.set_ylim(floor, 5 * max(every))
    sizes.set_xticks(range(len(numbers.free.theta)))
    finish(sizes, title="its coefficients", x="$i$", y=r"$|\theta_i|$")
    return figure
