"""The pictures of the training job: their numbers, and that every one is drawn."""

import pytest

from sgdm.errors import FileError, MissingExtraError
from sgdm.plots import style
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


def test_the_colours_are_apart_in_lightness_or_hue():
    assert len(set(COLOURS)) == len(COLOURS) == 7
    assert style.COLOURS is COLOURS
