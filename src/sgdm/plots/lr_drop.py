"""The picture of `sgdm.figures.lr_drop`: velocities and parameters part, as algebra says."""

from typing import TYPE_CHECKING, Any

from sgdm.plots.style import COLOURS, finish, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sgdm.figures.lr_drop import LrDrop

__all__ = ["draw_lr_drop"]

_LOST = r"\cdot(\varepsilon_1-\varepsilon_2)\,|v|"
_DROP: dict[str, Any] = {"color": "0.5", "linewidth": 0.9, "linestyle": ":"}


def draw_lr_drop(numbers: "LrDrop") -> "Figure":
    """Draw the velocities with their gap and, beside it, the gap of the parameters.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, (speeds, gaps) = new_figure(2, height=4.0, extra="plot")
    steps = range(1, len(numbers.gap) + 1)
    after = slice(numbers.drop, None)
    # The thinner one on top: while they coincide both show.
    for name, symbol, speed, colour, width in (
        (numbers.outside, r"$\varepsilon\,|v|$", numbers.speed_outside, COLOURS[0], 3.0),
        (numbers.inside, "$|v|$", numbers.speed_inside, COLOURS[1], 1.5),
    ):
        speeds.plot(steps, speed, color=colour, linewidth=width, label=f"{name}, {symbol}")
    speeds.plot(
        steps[after], numbers.speed_gap[after], color=COLOURS[2], label="gap", linewidth=2.4
    )
    speeds.plot(
        steps[after],
        numbers.speed_gap_predicted[after],
        color="0",
        linestyle="--",
        linewidth=1.1,
        label=rf"$\mu^n{_LOST}$",
    )
    speeds.set_yscale("log")
    speeds.axvline(numbers.drop, **_DROP, label=r"$\varepsilon_1 \to \varepsilon_2$")
    finish(speeds, title="velocity", x="step", y="")
    gaps.plot(steps, numbers.gap, color=COLOURS[2], linewidth=2.4, label="same gradients")
    gaps.plot(
        steps,
        numbers.gap_predicted,
        color="0",
        linestyle="--",
        linewidth=1.1,
        label=rf"$\mu\,(1-\mu^n)/(1-\mu){_LOST}$",
    )
    gaps.plot(steps, numbers.gap_answered, color=COLOURS[3], label="own gradients")
    gaps.axvline(numbers.drop, **_DROP)
    gaps.axhline(numbers.gap_limit, color="0.5", linewidth=0.9, linestyle="-.")
    gaps.text(
        len(steps),
        1.015 * numbers.gap_limit,
        rf"$\mu/(1-\mu){_LOST}$",
        ha="right",
        va="bottom",
    )
    gaps.set_ylim(top=1.12 * numbers.gap_limit)
    finish(gaps, title="distance of the parameters", x="step", y=r"$|\Delta\theta|$")
    return figure
