"""The picture of `sgdm.figures.stability_map`: the rate in colour, and where it reaches 1."""

from typing import TYPE_CHECKING, Any

from sgdm.extras import load_extra
from sgdm.plots.style import COLOURS, finish, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sgdm.figures.stability_map import StabilityMap

__all__ = ["draw_stability_map"]

_LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9)
_DIVERGES = "0.93"


def draw_stability_map(numbers: "StabilityMap") -> "Figure":
    """Draw a map for every rule.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    colours: Any = load_extra("matplotlib", extra="plot").colormaps["viridis_r"]
    colours = colours.with_extremes(over=_DIVERGES)
    figure, panels = new_figure(len(numbers.maps), height=3.9, extra="plot")
    for axes, one in zip(panels, numbers.maps, strict=True):
        grid, right = (one.lrs, numbers.momenta), one.lrs[-1]
        image = axes.pcolormesh(
            *grid, one.rates, cmap=colours, vmin=0, vmax=1, shading="gouraud", rasterized=True
        )
        lines = axes.contour(*grid, one.rates, levels=_LEVELS, colors="1", linewidths=0.7)
        # Beyond the boundary nothing of the interpolation between two points shows.
        axes.fill_betweenx(numbers.momenta, one.boundary, right, color=_DIVERGES, linewidth=0)
        axes.plot(one.boundary, numbers.momenta, color=COLOURS[1], linewidth=2.2)
        finish(
            axes,
            title=f"{one.rule}\n$\\varepsilon h$ < {one.formula}",
            x=r"$\varepsilon h$",
            y=r"$\mu$" if axes is panels[0] else "",
            legend=False,
        )
        axes.grid(visible=False)
        axes.set_xlim(0, right)
        axes.set_ylim(0, numbers.momenta[-1])
        if axes is panels[-1]:
            bar = figure.colorbar(image, ax=list(panels), label="rate", extend="max")
            bar.add_lines(lines)
            bar.set_ticks([0, *_LEVELS, 1])
    return figure
