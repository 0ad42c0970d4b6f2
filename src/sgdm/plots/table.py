"""The figures by name: what computes the numbers of each, and what draws them."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from sgdm.errors import InvalidValueError
from sgdm.figures.cm_vs_nag import cm_vs_nag
from sgdm.figures.local_minimum import local_minimum
from sgdm.figures.lr_drop import lr_drop
from sgdm.figures.nag_steps import nag_steps
from sgdm.figures.overfitting import overfitting
from sgdm.figures.spectrum import spectrum
from sgdm.figures.stability_map import stability_map
from sgdm.figures.trajectories import trajectories
from sgdm.plots.cm_vs_nag import draw_cm_vs_nag
from sgdm.plots.local_minimum import draw_local_minimum
from sgdm.plots.lr_drop import draw_lr_drop
from sgdm.plots.nag_steps import draw_nag_steps
from sgdm.plots.overfitting import draw_overfitting
from sgdm.plots.spectrum import draw_spectrum
from sgdm.plots.stability_map import draw_stability_map
from sgdm.plots.style import check_picture, save_figure
from sgdm.plots.trajectories import draw_trajectories

__all__ = ["FigureKind", "draw_figure", "list_figures"]


@dataclass(frozen=True, slots=True)
class FigureKind:
    """One figure.

    Attributes:
        name: In lower case.
        title: What it shows, in one line.
        compute: Returns its numbers; its keywords are the figure's options.
        draw: Makes a matplotlib figure of them.
    """

    name: str
    title: str
    compute: Callable[..., Any]
    draw: Callable[[Any], Any]

    @property
    def options(self) -> tuple[str, ...]:
        """The names of its options."""
        return tuple(signature(self.compute).parameters)


_TABLE = (
    FigureKind(
        "overfitting",
        "a polynomial fitted with and without the penalty λ/2·|θ|²",
        overfitting,
        draw_overfitting,
    ),
    FigureKind(
        "local-minimum",
        "plain descent stays in a local minimum, momentum goes through",
        local_minimum,
        draw_local_minimum,
    ),
    FigureKind(
        "nag-steps",
        "the gradient and momentum steps of Nesterov's method",
        nag_steps,
        draw_nag_steps,
    ),
    FigureKind(
        "cm-vs-nag",
        "one step of classical momentum and of Nesterov's, as vectors",
        cm_vs_nag,
        draw_cm_vs_nag,
    ),
    FigureKind(
        "trajectories",
        "the paths of conventions on surfaces",
        trajectories,
        draw_trajectories,
    ),
    FigureKind(
        "lr-drop",
        "how two conventions part when the learning rate drops",
        lr_drop,
        draw_lr_drop,
    ),
    FigureKind(
        "stability",
        "where a rule converges: learning rate by momentum",
        stability_map,
        draw_stability_map,
    ),
    FigureKind(
        "spectrum",
        "the best rate over the condition number",
        spectrum,
        draw_spectrum,
    ),
)
_BY_NAME = {kind.name: kind for kind in _TABLE}


def list_figures() -> tuple[FigureKind, ...]:
    """Return every figure, those of the seed first."""
    return _TABLE


def draw_figure(name: str, path: str | Path, **options: Any) -> None:
    """Compute a figure and write it, as .png, .svg or .pdf.

    Args:
        name: One of `list_figures`.
        path: The picture.
        **options: Those that the figure has; the rest keeps its usual value.

    Raises:
        InvalidValueError: If there is no such figure, option or value, or no such folder.
        DivergedError: If a descent leaves the finite numbers.
        FileError: If the picture cannot be written.
        MissingExtraError: If matplotlib is not installed.
    """
    path = Path(path)
    if name not in _BY_NAME:
        raise InvalidValueError.of(
            "the figure", f"one of {', '.join(_BY_NAME)}", name, "`sgdm plot` lists them"
        )
    kind = _BY_NAME[name]
    for option in options:
        if option not in kind.options:
            raise InvalidValueError.of(
                f"an option of {name}",
                f"one of {', '.join(kind.options)}",
                option,
                "leave it out, or draw another figure",
            )
    check_picture(path, name="out", extra="plot")
    save_figure(kind.draw(kind.compute(**options)), path)
