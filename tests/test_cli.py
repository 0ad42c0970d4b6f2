"""The command line, in process: output, exit status, one line for a mistake."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import sgdm
from sgdm.cli import app, main


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_conventions_lists_every_row_on_a_line_of_its_own():
    result = invoke("conventions")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert [line.split()[0] for line in lines] == [
        "name",
        *(row.name for row in sgdm.list_conventions()),
    ]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("row", sgdm.list_conventions(), ids=lambda row: row.name)
def test_conventions_name_shows_equations_axes_and_source(row):
    result = invoke("conventions", row.name)
    assert result.exit_code == 0
    for text in (*row.equations, row.source, f" {row.momentum_zero} "):
        assert text in result.stdout


def test_conventions_torch_in_full():
    result = invoke("conventions", "torch")
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[:15] == [
        "torch (also pytorch): equation (1), as torch.optim.SGD",
        "",
        "As published:",
        "    v = μ·v + (1-τ)·d",
        "    θ = θ - ε·v",
        "    Nesterov: Θ = Θ - ε·(d + μ·v)",
        "As it runs:",
        "    d = g + λ·θ",
        "    b = μ·b + (1 - τ)·d",
        "    θ = θ - ε·b",
        "As it runs, with nesterov:",
        "    d = g + λ·Θ",
        "    b = μ·b + (1 - τ)·d",
        "    Θ = Θ - ε·(d + μ·b)",
        "The first step of a parameter: b = d",
    ]


def test_a_locale_without_greek_letters_gets_question_marks():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    program = [sys.executable, "-m", "sgdm", "conventions", "caffe"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    assert "v = ??v + ??d" in done.stdout
    assert done.stderr == ""


def test_version():
    assert invoke("--version").stdout == f"sgdm {sgdm.__version__}\n"


def test_a_mistake_is_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sgdm", "conventions", "cafe"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sgdm: convention must be the name of a convention, got")
    assert captured.err.endswith(
        "got 'cafe'; did you mean 'caffe' or 'caffe2'? `sgdm conventions` lists them\n"
    )
    assert captured.err.count("\n") == 1
