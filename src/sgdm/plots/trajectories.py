"""The picture of `sgdm.figures.trajectories`: paths on contours."""

from typing import TYPE_CHECKING, Any

from sgdm.plots.style import COLOURS, new_figure
from sgdm.plots.surface import contours
from sgdm.surfaces import get_surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sgdm.figures.trajectories import Panel, Trajectories

__all__ = ["draw_trajectories"]

# Where paths coincide, one shows in the gaps of the next.
_STYLES: tuple[Any, ...] = ("-", (0, (4, 4)), "-", (0, (1, 1)))


def draw_trajectories(numbers: "Trajectories") -> "Figure":
    """Draw a panel for every surface.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, panels = new_figure(len(numbers.panels), height=3.7, extra="plot")
    for axes, panel in zip(panels, numbers.panels, strict=True):
        _draw(axes, panel)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _draw(axes: "Axes", panel: "Panel") -> None:
    surface = get_surface(panel.surface)
    contours(axes, surface, panel.parameters)
    for i, (rule, path) in enumerate(panel.paths.items()):
        x, y = zip(*path, strict=True)
        axes.plot(
            x,
            y,
            color=COLOURS[i % len(COLOURS)],
            linestyle=_STYLES[i % len(_STYLES)],
            linewidth=1.7,
            label=rule,
        )
    axes.plot(*surface.start, marker="o", color="0", markersize=5)
    axes.plot(*surface.minimum, marker="*", color="0", markersize=10)
    axes.set_title(surface.title, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
