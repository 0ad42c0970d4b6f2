"""The picture of `sgdm.figures.spectrum`: how many steps a digit takes."""

import math
from typing import TYPE_CHECKING

from sgdm.figures.spectrum import fastest, plain_descent
from sgdm.plots.style import COLOURS, finish, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sgdm.figures.spectrum import Spectrum

__all__ = ["draw_spectrum"]

_MARKERS = "osD^v"
_FORMULAS = (
    (plain_descent, r"$(\kappa-1)/(\kappa+1)$", "--"),
    (fastest, r"$(\sqrt{\kappa}-1)/(\sqrt{\kappa}+1)$", "-"),
)


def draw_spectrum(numbers: "Spectrum") -> "Figure":
    """Draw the rates over the condition number, and the steps that they mean.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, (rates, steps) = new_figure(2, height=4.0, extra="plot")
    few, many = numbers.condition_numbers, numbers.condition_numbers_held
    for axes, of in ((rates, _same), (steps, _steps_to_a_tenth)):
        for formula, label, style in _FORMULAS:
            heights = [of(formula(k)) for k in many]
            axes.plot(many, heights, color="0.6", linestyle=style, linewidth=1.2, label=label)
        for i, tuned in enumerate(numbers.rules):
            colour, marker = COLOURS[i % len(COLOURS)], _MARKERS[i % len(_MARKERS)]
            axes.plot(
                few, [of(r) for r in tuned.best], color=colour, marker=marker, label=tuned.rule
            )
            axes.plot(many, [of(r) for r in tuned.held], color=colour, linestyle=":")
        axes.plot([], [], color="0", linestyle=":", label=rf"$\mu = {numbers.momentum:g}$")
        axes.set_xscale("log")
    steps.set_yscale("log")
    finish(rates, title="rate", x=r"$\kappa$", y="", legend=False)
    finish(steps, title="steps to a tenth of the distance", x=r"$\kappa$", y="", legend=False)
    figure.legend(
        *steps.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(numbers.rules) + 3,
        frameon=False,
    )
    return figure


def _same(rate: float) -> float:
    return rate


def _steps_to_a_tenth(rate: float) -> float:
    return math.log(10) / -math.log(rate)
