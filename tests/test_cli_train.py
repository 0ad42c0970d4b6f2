"""`sgdm train`, as a person runs it: output, exit status, one line for a mistake."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sgdm.cli import main
from sgdm.cli.progress import ShownProgress
from sgdm.errors import FileError
from sgdm.training.folder import RunFolder

QUICK = ["--model", "linear", "--epochs", "2", "--batch-size", "128"]


def run(*arguments: str, monkeypatch, capsys) -> tuple[int, str, str]:
    """The command in this process: exit status, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["sgdm", "train", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


@pytest.fixture
def sgdm_train(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run(*arguments, monkeypatch=monkeypatch, capsys=capsys)


def test_a_run_prints_its_end_and_its_files(sgdm_train):
    status, out, err = sgdm_train(*QUICK)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert re.fullmatch(
        r"epoch 1: loss \d\.\d{4}, accuracy [\d.]+ %, test accuracy [\d.]+ %, \d+ steps/s", lines[0]
    )
    assert re.fullmatch(r"test accuracy [\d.]+ %, loss \d\.\d{4}, after 2 epochs", lines[2])
    folder = Path("runs/digits-linear-torch")
    assert [Path(line) for line in lines[3:]] == [
        folder / name for name in ("curves.png", "metrics.csv", "checkpoint.pt", "config.json")
    ]
    assert all(Path(line).is_file() for line in lines[3:])


def test_a_comparison_prints_its_table(sgdm_train):
    status, out, err = sgdm_train(*QUICK, "--conventions", "torch,caffe,nag", "--out", "c")
    assert (status, err) == (0, "")
    assert [line.partition(":")[0] for line in out.splitlines()[:2]] == [
        "epoch 1 of 2",
        "epoch 2 of 2",
    ]
    table = out.splitlines()[2:7]
    assert max(map(len, table)) <= 80
    torch_row, caffe_row, nag_row = (line.split() for line in table[2:])
    assert torch_row[0] == "torch"
    assert caffe_row[0] == "caffe"
    assert caffe_row[4] == "13", "half of 24 steps, then the drop"
    assert nag_row[4] == "1"
    assert out.splitlines()[7:] == ["c/compare.png", "c/compare.csv", "c/config.json"]
    assert Path("c/compare.png").stat().st_size > 10_000


def test_a_schedule_is_taken_as_given_in_a_comparison(sgdm_train):
    sgdm_train(*QUICK, "--conventions", "torch,caffe", "--lr-schedule", "constant", "--out", "c")
    assert RunFolder(Path("c")).config.read_text().count('"lr_schedule": "constant"') == 1
    status, out, _ = sgdm_train(*QUICK, "--conventions", "torch,caffe", "--out", "c", "--overwrite")
    assert status == 0
    assert "never" not in out


MISTAKES = [
    (
        ["--convention", "cafe"],
        "convention must be the name of a convention, .* did you mean 'caffe'",
    ),
    (
        ["--data", "none.npz"],
        "data must be 'digits' or the path of a .npz file, got '/.*/none.npz'; there is no",
    ),
    (["--lr", "nan"], "Invalid learning rate: nan"),
    (["--lr", "fast"], "Invalid value for '--lr'"),
    (["--momentum", "-1"], "Invalid momentum value: -1.0"),
    (["--model", "gpt"], "model must be one of linear, mlp, cnn"),
    (["--lr-drops", "a,b"], "lr_drops must be numbers with commas between, got 'a,b'"),
    (["--lr-drops", "2"], "lr_drops must be parts of the run, 0 to 1"),
    (["--weight-decay-mode", "x"], "weight_decay_mode must be None or one of"),
    (["--device", "abacus"], "device must be one that torch has here, got 'abacus'"),
    (["--conventions", "torch"], "conventions must be two different ones or more"),
    (["--resume", "nowhere"], "resume must be the folder of a run, got 'nowhere'"),
    (["--resume", "nowhere", "--lr", "1"], "--lr must be left out with --resume"),
    (["--resume", "nowhere", "--nesterov"], "--nesterov must be left out with --resume"),
    (["--conventions", "torch,caffe", "--convention", "nag"], "--convention must be left out with"),
    (["--out", "."], "out must be a folder of its own, got '.'"),
    (["--out", "x" * 300], "x+ cannot be (read|written)"),
    (["--nonsense"], "No such option: --nonsense"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(sgdm_train, arguments, message):
    status, out, err = sgdm_train(*arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert re.match(f"sgdm: ({message})", err), err
    assert not Path("runs").exists()


def test_a_diverged_run_has_status_3_and_keeps_its_files(sgdm_train):
    status, _, err = sgdm_train("--model", "mlp", "--lr", "50", "--out", "run")
    assert status == 3
    assert re.match(r"sgdm: the loss is (nan|inf) at step \d+ of 900; .* is in run\n", err)
    assert {"config.json", "metrics.csv", "checkpoint.pt"} <= {
        file.name for file in Path("run").iterdir()
    }


def test_resume_goes_on(sgdm_train, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            ShownProgress, "finished_epoch", lambda *_: os.kill(os.getpid(), signal.SIGINT)
        )
        status, out, err = sgdm_train(*QUICK, "--out", "a run")
    assert (status, out) == (130, "")
    assert (
        err == "sgdm: interrupted after 12 of 24 steps; go on with: sgdm train --resume 'a run'\n"
    )
    assert Path("a run/curves.png").exists()
    status, out, _ = sgdm_train("--resume", "a run")
    assert status == 0
    assert "epoch 1:" not in out
    assert "epoch 2:" in out
    assert "after 2 epochs" in out


def test_a_picture_that_fails_does_not_hide_how_the_run_ended(sgdm_train, monkeypatch):
    def fail(*_, **__):
        raise FileError("the picture failed")

    monkeypatch.setattr("sgdm.plots.training.draw_curves", fail)
    monkeypatch.setattr("sgdm.plots.training.draw_comparison", fail)
    status, _, err = sgdm_train("--model", "mlp", "--lr", "50", "--out", "a")
    assert (status, "the loss is" in err) == (3, True)
    status, out, err = sgdm_train(*QUICK, "--out", "b")
    assert (status, err) == (2, "sgdm: the picture failed\n")
    assert "test accuracy" in out
    status, out, err = sgdm_train(*QUICK, "--conventions", "torch,caffe", "--out", "c")
    assert (status, err) == (2, "sgdm: the picture failed\n")
    assert "caffe" in out


def test_matplotlib_is_asked_for_before_the_run(sgdm_train, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for arguments in (QUICK, [*QUICK, "--conventions", "torch,caffe"]):
        status, out, err = sgdm_train(*arguments)
        assert (status, out) == (2, "")
        assert "pip install 'sgdm[train]'" in err
    assert not Path("runs").exists()


def spawn(*arguments: str, cwd: Path, **options) -> subprocess.Popen:
    program = [sys.executable, "-m", "sgdm", "train", *arguments]
    return subprocess.Popen(program, cwd=cwd, **options)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    process = spawn(
        *QUICK[:2], "--epochs", "3000", "--out", "run", cwd=tmp_path, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "run/checkpoint.pt").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(
        r"sgdm: interrupted after \d+ of 135000 steps; go on with: sgdm train --resume run\n", err
    )


def test_a_terminal_shows_a_bar_with_loss_accuracy_and_speed(tmp_path):
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    process = spawn(
        *QUICK[:2], "--epochs", "60", "--out", "run", cwd=tmp_path, stdout=follower, env=environment
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    assert process.wait() == 0
    text = shown.decode()
    assert re.search(r"training .*/2700.*loss \d\.\d{4}  accuracy [\d.]+ %  \d+ steps/s", text)
    assert "epoch 1:" not in text
    assert "test accuracy" in text
