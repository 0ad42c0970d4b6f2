"""A command whose output nobody reads any more: silent, with the status of SIGPIPE."""

import os
import subprocess
import sys

import pytest

from sgdm.cli import main
from sgdm.training.run import resume


def closed_pipe() -> int:
    """An end of a pipe that writes to nobody."""
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["conventions"], ["explore", "--out", "page.html"]],
    ids=" ".join,
)
def test_a_process_ends_in_silence(tmp_path, arguments):
    write = closed_pipe()
    command = [sys.executable, "-m", "sgdm", *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_mistake_that_nobody_reads_ends_in_silence():
    write = closed_pipe()
    command = [sys.executable, "-m", "sgdm", "conventions", "cafe"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=write, timeout=60, check=False)
    os.close(write)
    assert (done.returncode, done.stdout) == (141, b"")


def test_a_run_that_nobody_follows_any_more_can_go_on(tmp_path, monkeypatch):
    path = tmp_path / "run"
    arguments = ["train", "--model", "linear", "--epochs", "2", "--out", str(path)]
    monkeypatch.setattr(sys, "argv", ["sgdm", *arguments])
    with os.fdopen(closed_pipe(), "w") as stdout, (tmp_path / "said").open("w") as stderr:
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(sys, "stderr", stderr)
        with pytest.raises(SystemExit) as stop:
            main()
    monkeypatch.undo()
    assert stop.value.code == 141
    assert (tmp_path / "said").read_text() == ""
    assert {file.name for file in tmp_path.iterdir()} == {"run", "said"}
    assert len(resume(path)) == 2
