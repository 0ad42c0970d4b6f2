"""Curves as text: where the dots are, what is written beside them, and how they fit in."""

import math
import sys
from collections.abc import Sequence

import pytest
from rich.console import Console
from rich.text import Text

from sgdm.cli.live import LiveCurves
from sgdm.errors import MissingExtraError
from sgdm.plots.style import COLOURS
from sgdm.plots.terminal import Chart, Curve, comparison_charts, draw_chart, least_width, run_charts
from sgdm.training.folder import Metrics
from sgdm.training.observer import ComparedEpoch

ROWS = [Metrics(e, 10 * e, 0.1 / e, 0.9, 1.0 / e, 0.5, 2.0 / e, 0.25 * e) for e in (1, 2, 3)]


def compared(epoch: int) -> list[ComparedEpoch]:
    row = ROWS[epoch - 1]
    return [
        ComparedEpoch("torch", row, 0.0, 0.0),
        ComparedEpoch("caffe", row, 10.0**-epoch, 2 * 10.0**-epoch),
    ]


def dots_of(lines: Sequence[Text]) -> set[tuple[int, int]]:
    """Where there are dots, as (across, up) from the lower left."""
    places = ((0, 3), (0, 2), (0, 1), (1, 3), (1, 2), (1, 1), (0, 0), (1, 0))  # Unicode's order
    found: set[tuple[int, int]] = set()
    rows = [line.plain.split("│")[1] for line in lines if "│" in line.plain]
    for up, row in enumerate(reversed(rows)):
        for across, character in enumerate(row):
            bits = ord(character) - 0x2800
            if 0 <= bits < 256:
                found |= {
                    (2 * across + x, 4 * up + y) for i, (x, y) in enumerate(places) if bits >> i & 1
                }
    return found


def shown(curves: LiveCurves, *, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(curves)
    return capture.get().splitlines()


def test_a_line_goes_from_corner_to_corner():
    lines = draw_chart(Chart("x", (Curve("a", (0.0, 1.0)),)), width=18, height=4)
    dots = dots_of(lines)
    across = max(x for x, _ in dots)
    assert min(dots) == (0, 0)
    assert (across, 15) in dots
    assert across % 2 == 1, "the last column is used whole"
    assert all(abs(y / 15 - x / across) < 1.5 / 15 for x, y in dots)


def test_a_logarithmic_axis_is_straight_for_powers():
    powers, numbers = Curve("a", (1.0, 1e-3, 1e-6)), Curve("a", (0.0, -3.0, -6.0))
    logarithmic = draw_chart(Chart("x", (powers,), logarithmic=True), width=34, height=5)
    plain = draw_chart(Chart("x", (numbers,)), width=34, height=5)
    assert [line.plain.split("│")[0].strip() for line in logarithmic[1:-1]] == [
        "1", "", "0.001", "", "1e-06",
    ]  # fmt: skip
    assert {y for _, y in dots_of(logarithmic)} == {y for _, y in dots_of(plain)} == set(range(20))


@pytest.mark.parametrize("missing", [math.nan, math.inf, 0.0, -1.0])
def test_what_cannot_be_drawn_is_a_gap_and_its_number_is_told(missing):
    curve = Curve("a", (1.0, 10.0, missing, 10.0, missing))
    lines = draw_chart(Chart("x", (curve,), logarithmic=True), width=40, height=4)
    dots = dots_of(lines)
    across = max(x for x, _ in dots)
    assert not [x for x, _ in dots if across / 2.8 < x < across], "neither drawn nor bridged"
    assert f"a {missing:.3g}" in "\n".join(line.plain for line in lines)


@pytest.mark.parametrize("value", [0.5, 0.0, 1e300, -3.0])
def test_equal_numbers_are_a_level_line(value):
    dots = dots_of(draw_chart(Chart("x", (Curve("a", (value,) * 3),)), width=40, height=5))
    assert {y for _, y in dots} in ({9}, {10})
    assert len(dots) > 10


def test_one_epoch_is_a_point():
    lines = draw_chart(Chart("x", (Curve("a", (1.0,)), Curve("b", (2.0,)))), width=30, height=5)
    assert dots_of(lines) == {(0, 0), (0, 19)}
    assert lines[-1].plain.split() == ["1", "epoch"]


def test_every_line_is_of_the_width_and_the_height_is_kept():
    chart = Chart("loss", (Curve("train", (3.0, 2.0, 1.0)), Curve("test", (3.0, 2.5, 2.0))))
    for width in (41, 60, 91):
        lines = draw_chart(chart, width=width, height=6)
        assert len(lines) == 8
        assert max(len(line.plain) for line in lines) == width
        assert lines[-1].plain.split() == ["1", "3", "epoch"]


def test_curves_are_named_at_their_ends_with_their_numbers():
    chart = Chart("x", (Curve("low", (5.0, 0.0)), Curve("high", (5.0, 10.0))))
    lines = draw_chart(chart, width=40, height=6)
    assert lines[1].plain.endswith("high 10")
    assert lines[6].plain.endswith("low 0")


def test_curves_that_end_together_are_all_named():
    curves = tuple(Curve(f"c{i}", (1.0, 0.0)) for i in range(6))
    lines = draw_chart(Chart("x", (*curves, Curve("top", (1.0, 1.0)))), width=40, height=3)
    words = [line.plain.split(" ")[-2] for line in lines[1:-1]]
    assert words == ["top", *(f"c{i}" for i in range(6))], "more lines than asked for"


def test_where_curves_cross_the_dots_of_both_are_there():
    a, b = Curve("a", (0.0, 1.0)), Curve("b", (1.0, 0.0))
    alone = [dots_of(draw_chart(Chart("x", (one,)), width=30, height=5)) for one in (a, b)]
    both = draw_chart(Chart("x", (a, b)), width=30, height=5)
    assert dots_of(both) == alone[0] | alone[1]
    assert {span.style for line in both[1:-1] for span in line.spans} - {""} == set(COLOURS[:2])


def test_a_run_has_loss_and_accuracy():
    loss, accuracy = run_charts(ROWS)
    assert loss == Chart(
        "loss",
        (
            Curve("train", tuple(r.train_loss for r in ROWS)),
            Curve("test", tuple(r.test_loss for r in ROWS)),
        ),
        logarithmic=True,
    )
    assert accuracy.curves == (
        Curve("train", (50.0, 50.0, 50.0)),
        Curve("test", (25.0, 50.0, 75.0)),
    )


def test_a_comparison_has_a_curve_a_convention():
    charts = comparison_charts([compared(1), compared(2)])
    assert [chart.title for chart in charts] == [
        "training loss", "test accuracy, %", "distance from torch",
    ]  # fmt: skip
    assert {tuple(c.name for c in chart.curves) for chart in charts} == {("torch", "caffe")}
    assert [c.values for c in charts[0].curves] == [(1.0, 0.5)] * 2
    assert [c.values for c in charts[1].curves] == [(25.0, 50.0)] * 2
    assert [c.values for c in charts[2].curves] == [(0.0, 0.0), (0.1, 0.01)]


@pytest.mark.parametrize(("width", "height"), [(45, 24), (60, 24), (100, 30), (200, 60), (90, 8)])
def test_the_picture_fits_the_terminal(width, height):
    curves = LiveCurves()
    curves.resumed(ROWS[:2])
    curves.finished_epoch(ROWS[2])
    lines = shown(curves, width=width, height=height)
    assert len(lines) < height - 1, "the bar and the cursor have their lines"
    assert max(map(len, lines)) <= width
    titles = [line for line in lines if "loss" in line or "accuracy" in line]
    assert len(titles) == (1 if width >= 90 else 2), "side by side, or below each other"
    assert lines[-1].split() == ["epoch", "3", "lr", "0.0333", "momentum", "0.9"]


def test_the_picture_follows_the_run_and_the_terminal():
    curves = LiveCurves()
    assert shown(curves, width=80, height=24) == []
    curves.compared_epoch(2, compared(1))
    first = shown(curves, width=80, height=40)
    curves.compared_epoch(2, compared(2))
    second = shown(curves, width=80, height=40)
    assert first != second
    assert second[-1].startswith("epoch 2 ")
    assert any("caffe 0.01" in line for line in second)
    assert max(map(len, shown(curves, width=140, height=40))) > 80


@pytest.mark.parametrize(("width", "height"), [(44, 40), (80, 12)])
def test_a_terminal_that_is_too_small_is_told_so(width, height):
    curves = LiveCurves()
    curves.finished_epoch(ROWS[0])
    text = " ".join(" ".join(shown(curves, width=width, height=height)).split())
    assert text.startswith("the curves need 45 columns and 13 lines: enlarge the terminal epoch 1")


def test_a_chart_has_room_for_the_longest_numbers():
    values = (-1.234e-105, -1.235e-105)
    for name in ("a", "torch:nesterov"):
        chart = Chart("x", (Curve(name, values),))
        lines = draw_chart(chart, width=least_width(chart), height=3)
        assert max(len(line.plain) for line in lines) == least_width(chart)


def test_plotille_missing_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotille", None)
    with pytest.raises(MissingExtraError, match=r"^plotille must be .*'sgdm\[train\]'"):
        draw_chart(Chart("x", (Curve("a", (1.0,)),)), width=30, height=5)
