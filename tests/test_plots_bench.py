"""The picture of the benchmark: its numbers, and that it is drawn."""

import pytest

from sgdm.errors import InvalidValueError, MissingExtraError
from sgdm.plots.bench import draw_bench
from test_bench_results import ROW, replace

NAMES = ("sgdm", "torch default", "torch fused")
SIZES = [(1, 256), (10, 2560), (1000, 256_000), (1, 10_000), (1, 1000)]
ROWS = [
    replace(ROW, contestant=name, tensors=tensors, elements=elements, median=elements * 1e-9)
    for tensors, elements in SIZES
    for name in NAMES
]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, in place of saving them."""
    figures = []
    monkeypatch.setattr("sgdm.plots.bench.save_figure", lambda figure, path: figures.append(figure))
    return figures


def test_a_line_a_contestant_over_tensors_and_over_elements(drawn, tmp_path):
    others = [replace(ROW, rule="nesterov"), replace(ROW, dtype="bfloat16"), ROW]
    draw_bench([*others, *ROWS], tmp_path / "x.png")
    (figure,) = drawn
    left, right = figure.axes
    for axes, xs in ((left, [1, 10, 1000]), (right, [256, 1000, 10_000])):
        assert [line.get_label() for line in axes.lines] == list(NAMES[::-1])
        assert all(list(line.get_xdata()) == xs for line in axes.lines)
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert list(right.lines[0].get_ydata()) == pytest.approx([0.256, 1.0, 10.0])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(NAMES)
    assert len({line.get_color() for line in left.lines}) == len(NAMES)


def test_a_contestant_may_miss_one_side(drawn, tmp_path):
    few = [row for row in ROWS if row.contestant != "torch fused" or row.tensors > 1]
    draw_bench(few, tmp_path / "x.png")
    assert len(drawn[0].legends[0].get_texts()) == 3


def test_it_is_written_without_a_warning(tmp_path):
    draw_bench(ROWS, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_rows_without_a_sweep_are_refused(tmp_path):
    for rows in ([], [ROW], [row for row in ROWS if row.tensors > 1]):
        with pytest.raises(InvalidValueError, match="rows must be those of a sweep"):
            draw_bench(rows, tmp_path / "x.png")


def test_matplotlib_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sgdm\[bench\]'"):
        draw_bench(ROWS, tmp_path / "x.png")
