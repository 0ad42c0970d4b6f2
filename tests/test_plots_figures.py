"""The named figures as drawn: compared with pictures that a person has looked at."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from pictures import TOLERANCE, apart
from sgdm.errors import InvalidValueError, MissingExtraError
from sgdm.plots import draw_figure, list_figures

IMAGES = Path(__file__).parent / "images"
NAMES = [kind.name for kind in list_figures()]


@pytest.fixture(scope="module")
def tool():
    folder = str(Path(__file__).parent.parent / "tools")
    sys.path.insert(0, folder)
    try:
        return import_module("figures")
    finally:
        sys.path.remove(folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_looks_as_it_did(tool, name):
    drawn = tool.small_figure(name, **tool.OPTIONS[name])
    assert apart(drawn, IMAGES / f"{name}.png") < TOLERANCE, "look at it, run tools/figures.py"


SLIGHT = {
    "overfitting": {"degree": 6},
    "local-minimum": {"momentum": 0.86},
    "nag-steps": {"momentum": 0.78},
    "cm-vs-nag": {"momentum": 0.65},
    "trajectories": {"nu": 0.9},
    "lr-drop": {"drop": 19},
    "stability": {"conventions": ("torch",)},
    "spectrum": {"momentum": 0.55},
}


@pytest.mark.parametrize("name", NAMES)
def test_the_comparison_sees_other_numbers(tool, name):
    drawn = tool.small_figure(name, **(tool.OPTIONS[name] | SLIGHT[name]))
    assert apart(drawn, IMAGES / f"{name}.png") > TOLERANCE


def test_the_comparison_sees_a_missing_label(tool, monkeypatch):
    monkeypatch.setattr("sgdm.plots.cm_vs_nag.mark_arrow", lambda *_, **__: None)
    drawn = tool.small_figure("cm-vs-nag", **tool.OPTIONS["cm-vs-nag"])
    assert apart(drawn, IMAGES / "cm-vs-nag.png") > TOLERANCE


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_the_same_figure_is_the_same_file(tmp_path, ending):
    one, other = tmp_path / f"one.{ending}", tmp_path / f"other.{ending}"
    for path in (one, other):
        draw_figure("nag-steps", path)
    assert one.read_bytes() == other.read_bytes()


def test_the_table_has_the_issues_eight_and_their_options():
    options = {kind.name: kind.options for kind in list_figures()}
    assert list(options) == [
        "overfitting",
        "local-minimum",
        "nag-steps",
        "cm-vs-nag",
        "trajectories",
        "lr-drop",
        "stability",
        "spectrum",
    ]
    assert options["cm-vs-nag"] == ("lr", "momentum")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidValueError, match=r"the figure must be one of overfitting, .*'zoo'"):
        draw_figure("zoo", tmp_path / "x.png")
    text = "an option of cm-vs-nag must be one of lr, momentum, got 'surface'"
    with pytest.raises(InvalidValueError, match=text):
        draw_figure("cm-vs-nag", tmp_path / "x.png", surface="beale")
    for path in (tmp_path / "x.gif", tmp_path / "no" / "x.png"):
        with pytest.raises(InvalidValueError, match=r"out must be a file with one of the endings"):
            draw_figure("cm-vs-nag", path)
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sgdm\[plot\]'"):
        draw_figure("cm-vs-nag", tmp_path / "x.png")
