"""`sgdm audit`: what it prints, writes and returns."""

import json
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from sgdm.cli import app
from sgdm.cli.audit import _setting

MOMENTUM = ("--set", "lr=0.1", "--set", "momentum=0.9")


def invoke(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)], catch_exceptions=False)


def test_a_clean_one():
    result = invoke("sgdm:SGD", *MOMENTUM, "--set", "convention=keras", "--equations")
    assert result.exit_code == 0
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0] == "sgdm:SGD(lr=0.1, momentum=0.9, convention='keras')"
    assert lines[3].startswith("The rule of keras3, to ")
    assert lines[4].startswith("A gradient moves the parameter by ε in its step")
    assert "    Δ_(t+1) = μ·Δ_t - ε·d_t" in lines
    at = lines.index("The rule of keras3:")
    assert lines[at + 1 : at + 4] == ["    d = g", "    b = μ·b - ε·d", "    θ = (1 - ε·λ)·θ + b"]
    assert "DEFECT" not in result.stdout
    assert lines[-1].startswith("no defects, ")


def test_one_with_defects(tmp_path):
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "markdown", "junit")}
    given = [text for kind, path in files.items() for text in (f"--{kind}", path)]
    repro = tmp_path / "repro"
    result = invoke("torch.optim:SGD", *MOMENTUM, "--set", "fused=true", *given, "--repro", repro)
    assert result.exit_code == 1
    line = next(x for x in result.stdout.splitlines() if "memory-beside-is-left-alone" in x)
    assert " ".join(line.split()) == (
        "DEFECT memory-beside-is-left-alone memory beside the parameter is written "
        "2 elements beside the parameter were changed"
    )
    assert json.loads(files["json"].read_text())["subject"].startswith("torch.optim:SGD(")
    assert ET.parse(files["junit"]).getroot().tag == "testsuite"  # noqa: S314 - our own
    assert files["markdown"].read_text().startswith("## torch.optim:SGD(")
    assert "2 elements" not in (repro / "memory-beside-is-left-alone.py").read_text()
    assert len(list(repro.iterdir())) == result.stdout.count("DEFECT") + result.stdout.count(
        "note "
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lr=0.1", ("lr", 0.1)),
        ("fused=true", ("fused", True)),
        ("a=False", ("a", False)),
        ("a=none", ("a", None)),
        ("betas=(0.9, 0.99)", ("betas", (0.9, 0.99))),
        ("convention=caffe", ("convention", "caffe")),
        ("name=a=b", ("name", "a=b")),
    ],
)
def test_a_setting_is_read(text, value):
    assert _setting(text) == value


@pytest.mark.parametrize("text", ["lr", "=1", "l r=1"])
def test_misuse_is_status_2(text, capsys, monkeypatch):
    from sgdm.cli import main

    monkeypatch.setattr("sys.argv", ["sgdm", "audit", "torch.optim:SGD", "--set", text])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert f"--set must be NAME=VALUE, got {text!r}; write --set lr=0.1" in capsys.readouterr().err
