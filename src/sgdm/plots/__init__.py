"""Figures, from numbers that are computed elsewhere; those that have a name by `draw_figure`."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sgdm.plots.table import FigureKind, draw_figure, list_figures

__all__ = ["FigureKind", "draw_figure", "list_figures"]


def __getattr__(name: str) -> object:
    """Load a public name on first use: a picture of a run needs none of the named figures."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("sgdm.plots.table"), name)
