"""The pictures of the training job: their numbers, and that every one is drawn."""

from itertools import combinations

import numpy as np
import pytest

from sgdm.errors import FileError, MissingExtraError
from sgdm.plots.style import COLOURS
from sgdm.plots.training import draw_comparison, draw_curves, smoothed
from sgdm.training.comparison import Comparison, Trace
from sgdm.training.folder import Metrics

ROWS = [Metrics(e, 10 * e, 0.1 / e, 0.9, 1.0 / e, 0.5, 2.0 / e, 0.25 * e) for e in (1, 2, 3)]
COMPARISON = Comparison(
    [
        Trace("torch", [1.0, 0.5], [0.0, 0.0], [0.0, 0.0]),
        Trace("caffe", [1.0, 0.7], [1e-16, 1e-3], [1e-17, 2e-3]),
    ],
    [0.1, 0.01],
    [1],
)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, in place of saving them."""
    figures = []
    monkeypatch.setattr(
        "sgdm.plots.training.save_figure", lambda figure, path: figures.append(figure)
    )
    return figures


def test_the_curves_show_the_metrics(drawn, tmp_path):
    draw_curves(ROWS, tmp_path / "x.png", title="digits")
    (figure,) = drawn
    losses, accuracies, rates = figure.axes
    lines = {line.get_label(): list(line.get_ydata()) for line in losses.lines}
    assert lines == {"train": [r.train_loss for r in ROWS], "test": [r.test_loss for r in ROWS]}
    assert list(accuracies.lines[1].get_ydata()) == [25.0, 50.0, 75.0]
    assert list(rates.lines[0].get_ydata()) == [r.lr for r in ROWS]
    assert list(losses.lines[0].get_xdata()) == [1, 2, 3]
    assert figure.get_suptitle() == "digits"


def test_one_epoch_is_a_point(drawn, tmp_path):
    draw_curves(ROWS[:1], tmp_path / "x.png", title="")
    assert drawn[0].axes[0].lines[0].get_marker() == "o"


def test_the_comparison_shows_losses_distances_and_the_drop(drawn, tmp_path):
    draw_comparison(COMPARISON, tmp_path / "x.png")
    losses, distances = drawn[0].axes
    labels = [line.get_label() for line in losses.lines]
    assert labels == ["torch", "caffe", "ε drops"]
    assert list(losses.lines[1].get_ydata()) == smoothed([1.0, 0.7])
    assert list(distances.lines[0].get_ydata()) == [1e-16, 1e-3]
    assert list(distances.lines[1].get_ydata()) == [1e-17, 2e-3]
    assert distances.lines[1].get_linestyle() == "--"
    assert list(losses.lines[2].get_xdata()) == [1, 1]
    assert losses.lines[0].get_linewidth() > losses.lines[1].get_linewidth()


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_is_written_whole(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    draw_comparison(COMPARISON, path)
    head = path.read_bytes()[:100]
    assert (b"\x89PNG" in head) if ending == "png" else (b"<?xml" in head)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(FileError, match="cannot be written"):
        draw_curves(ROWS, tmp_path / "missing" / "x.png", title="")


def test_matplotlib_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sgdm\[train\]'"):
        draw_curves(ROWS, tmp_path / "x.png", title="")


def test_smoothing_keeps_a_constant():
    assert smoothed([2.0] * 5) == pytest.approx([2.0] * 5)
    assert smoothed([]) == []


def test_a_comparison_without_distances_is_drawn_without_a_warning(tmp_path):
    same = Comparison([Trace("a", [0.0], [0.0], [0.0]), Trace("b", [0.0], [0.0], [0.0])], [0.0], [])
    draw_comparison(same, tmp_path / "x.png")


def test_the_colours_are_apart_for_colour_blind_eyes():
    """Every pair differs by ΔE > 10 (CIE 1976; 2.3 is just noticeable) as a deuteranope sees it."""
    seen = []
    for colour in COLOURS:
        r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        srgb = np.array([r, g, b])
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        # Machado, Oliveira, Fernandes 2009, severity 1.
        linear = np.clip(DEUTERANOPE @ linear, 0, 1)
        xyz = TO_XYZ @ linear / np.array([0.95047, 1.0, 1.08883])
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        seen.append((116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])))
    gaps = [np.linalg.norm(np.subtract(a, b)) for a, b in combinations(seen, 2)]
    assert min(gaps) > 10


DEUTERANOPE = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
)
