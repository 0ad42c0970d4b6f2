"""How every figure looks, and how it is saved: colours that colour-blind readers can tell apart."""

from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgdm.errors import InvalidValueError
from sgdm.extras import load_extra
from sgdm.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "check_picture", "finish", "new_figure", "save_figure"]

_PICTURES = (".png", ".svg", ".pdf")
# The day of drawing is left out: the same numbers make the same file.
_UNDATED: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}

# Okabe and Ito's palette, without its yellow, which is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def new_figure(
    columns: int, *, width: float = 9.0, height: float = 3.6, extra: str = "train"
) -> "tuple[Figure, Any]":
    """Return a figure and its axes, side by side, without any global state.

    Args:
        columns: How many axes.
        width: In inches.
        height: In inches.
        extra: What is named as bringing matplotlib, where that is missing.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure_module = load_extra("matplotlib.figure", extra=extra)
    figure = figure_module.Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def finish(axes: "Axes", *, title: str, x: str, y: str, legend: bool = True) -> None:
    """Give axes their words, a light grid, and a legend."""
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=9)


def check_picture(path: Path, *, name: str, extra: str) -> None:
    """Refuse, before the work, what would fail after it.

    Args:
        path: Where the picture is to be.
        name: The argument that says so.
        extra: What is named as bringing matplotlib, where that is missing.

    Raises:
        InvalidValueError: If no picture has that ending, or the folder is not there.
        MissingExtraError: If matplotlib is not installed.
    """
    load_extra("matplotlib.figure", extra=extra)
    if path.suffix not in _PICTURES or not path.parent.is_dir():
        raise InvalidValueError.of(
            name,
            f"a file with one of the endings {', '.join(_PICTURES)}, in a folder that is there",
            str(path),
            "choose such a place",
        )


def save_figure(figure: "Figure", path: Path) -> None:
    """Write the figure, in the format of the path's ending.

    Raises:
        FileError: If it cannot be written.
    """
    drawn = BytesIO()
    matplotlib: Any = import_module("matplotlib")
    with matplotlib.rc_context({"svg.hashsalt": "sgdm"}):  # random otherwise
        figure.savefig(
            drawn,
            format=path.suffix.removeprefix("."),
            dpi=120,
            metadata=_UNDATED.get(path.suffix),
        )
    write_atomically(path, lambda file: file.write(drawn.getvalue()))
