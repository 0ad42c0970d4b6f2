"""`sgdm plot`: the list, the pictures that the pages show, and mistakes."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pictures import TOLERANCE, apart
from sgdm.cli import app, main
from sgdm.plots import list_figures

SHOWN = Path(__file__).parent.parent / "docs" / "images"


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["plot", *arguments], catch_exceptions=False)


def test_without_a_name_it_lists_them():
    done = invoke()
    lines = done.stdout.splitlines()
    assert done.exit_code == 0
    assert [line.split()[0] for line in lines] == ["name", *(k.name for k in list_figures())]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", [kind.name for kind in list_figures()])
def test_the_pages_show_what_the_command_makes(tmp_path, name):
    path = tmp_path / f"{name}.png"
    done = invoke(name, "--out", str(path))
    assert done.exit_code == 0
    assert done.stdout == f"{path}\n"
    assert apart(path.read_bytes(), SHOWN / path.name) < TOLERANCE, (
        "look at it, run tools/figures.py"
    )


def test_the_options_reach_the_figure(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "sgdm.plots.table.draw_figure", lambda name, path, **options: seen.append((name, options))
    )
    options = {
        "conventions": ("torch", "nag"),
        "surface": ["beale", "quadratic"],
        "lr": 0.5,
        "lr_drop_factor": 0.2,
        "momentum": 0.0,
        "nu": 0.7,
        "weight_decay": 0.25,
        "condition_number": 5.0,
        "degree": 3,
        "steps": 4,
        "drop": 2,
    }
    texts = {"conventions": "torch, nag", "surface": "beale, quadratic"}
    given: list[str] = []
    for name, value in options.items():
        given += [f"--{name.replace('_', '-')}", texts.get(name, str(value))]
    invoke("trajectories", "--out", str(tmp_path / "x.png"), *given)
    assert seen == [("trajectories", options)]
    read = {option for kind in list_figures() for option in kind.options}
    assert read == set(options)  # every option is one of some figure, and the other way round


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["zoo", "--out", "x.png"], "the figure must be one of overfitting, local-minimum, "),
        (["lr-drop"], "--out must be given, got nothing; name a .png, .svg or .pdf file"),
        (
            ["spectrum", "--out", "x.png", "--lr", "1"],
            "an option of spectrum must be one of conventions, momentum, nu, got 'lr'; ",
        ),
        (["lr-drop", "--out", "x.jpg"], "out must be a file with one of the endings .png, .svg"),
        (
            ["trajectories", "--out", "x.png", "--conventions", "torch,torch"],
            "conventions must be one or several, different from each other",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, text, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sgdm", "plot", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"sgdm: {text}")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_descent_that_diverges_is_status_3(monkeypatch, capsys, tmp_path):
    path = tmp_path / "x.png"
    arguments = ["sgdm", "plot", "local-minimum", "--lr", "1", "--out", str(path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 3
    assert "left the finite numbers" in capsys.readouterr().err
    assert not path.exists()
