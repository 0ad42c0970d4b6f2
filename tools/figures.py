"""Draws the figures that the pages show, and the small ones that the tests compare with."""

from io import BytesIO
from pathlib import Path
from typing import Any

from sgdm.plots import draw_figure, list_figures

ROOT = Path(__file__).parent.parent
SHOWN = ROOT / "docs" / "images"
COMPARED = ROOT / "tests" / "images"
# Other options than those of the pictures that are shown.
OPTIONS: dict[str, dict[str, Any]] = {
    "overfitting": {"weight_decay": 0.1, "degree": 7},
    "local-minimum": {"lr": 0.03, "momentum": 0.85, "steps": 60},
    "nag-steps": {"lr": 0.3, "momentum": 0.8, "steps": 6},
    "cm-vs-nag": {"lr": 0.5, "momentum": 0.7},
    "trajectories": {
        "conventions": ("torch", "qhm", "nag"),
        "surface": ("local-minimum", "quadratic"),
        "momentum": 0.8,
        "nu": 0.5,
        "condition_number": 10.0,
        "steps": 60,
    },
    "lr-drop": {
        "conventions": ("keras", "optax"),
        "lr": 0.2,
        "momentum": 0.8,
        "lr_drop_factor": 0.3,
        "drop": 20,
        "steps": 50,
    },
    "stability": {"conventions": ("ema",)},
    "spectrum": {"conventions": ("caffe",), "momentum": 0.5},
}


def small_figure(name: str, **options: Any) -> bytes:
    """Return the figure as a small PNG."""
    kind = next(kind for kind in list_figures() if kind.name == name)
    drawn = BytesIO()
    kind.draw(kind.compute(**options)).savefig(drawn, format="png", dpi=50)
    return drawn.getvalue()


def main() -> None:
    """Write all of them."""
    for kind in list_figures():
        draw_figure(kind.name, SHOWN / f"{kind.name}.png")
        (COMPARED / f"{kind.name}.png").write_bytes(small_figure(kind.name, **OPTIONS[kind.name]))


if __name__ == "__main__":
    main()
