"""`sgdm train`, as a person runs it: output, exit status, one line for a mistake."""

import csv
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sgdm.__main__ import run as run_process
from sgdm.cli import main
from sgdm.cli.progress import ShownProgress
from sgdm.errors import FileError
from sgdm.training.folder import RunFolder
from test_training_lock import is_refused

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
    (["--shard"], "--shard must be given to several processes, got 1; add --nproc, or start with"),
    (["--nproc", "0"], "Invalid value for '--nproc'"),
    (
        ["--nproc", "2", "--conventions", "torch,caffe"],
        "--conventions must be run by one process, got 2; leave out --nproc and torchrun",
    ),
    (["--nonsense"], "No such option: --nonsense"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(sgdm_train, arguments, message):
    status, out, err = sgdm_train(*arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert re.match(f"sgdm: ({message})", err), err
    assert not Path("runs").exists()


TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
HALVES = [
    ("WORLD_SIZE", None, "from 1 to 1000000"),
    ("WORLD_SIZE", "0", "from 1 to 1000000"),
    ("RANK", None, "from 0 to 1"),
    ("RANK", "first", "from 0 to 1"),
    ("RANK", "2", "from 0 to 1"),
    ("RANK", "-1", "from 0 to 1"),
    ("MASTER_PORT", None, "from 0 to 65535"),
]


@pytest.mark.parametrize(("name", "value", "numbers"), HALVES)
def test_half_of_what_torchrun_sets_is_named(sgdm_train, monkeypatch, name, value, numbers):
    for given, text in {**TORCHRUN, name: value}.items():
        if text is not None:
            monkeypatch.setenv(given, text)
    status, out, err = sgdm_train(*QUICK)
    assert (status, out) == (2, "")
    assert err == (
        f"sgdm: {name} must be a number {numbers} in the environment, got {value!r}; "
        "start all processes with torchrun, or with --nproc outside of it\n"
    )


def test_the_address_alone_is_no_half(sgdm_train, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    assert sgdm_train(*QUICK)[0] == 0


def test_a_process_that_is_not_told_who_it_is_ends_with_status_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sgdm", "train", *QUICK])
    for name, value in {**TORCHRUN, "WORLD_SIZE": "some"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        run_process()
    assert stop.value.code == 2
    assert re.fullmatch(r"sgdm: WORLD_SIZE must be a number .*\n", capsys.readouterr().err)


def test_nproc_under_torchrun_is_a_mistake(sgdm_train, monkeypatch):
    for name, value in {**TORCHRUN, "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    status, out, err = sgdm_train("--nproc", "2")
    assert (status, out) == (2, "")
    assert err == (
        "sgdm: --nproc must be left out where torchrun has started 4 processes, got 2; take one of "
        "them\n"
    )


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


def test_pictures_are_drawn_before_another_run_may_begin(sgdm_train, monkeypatch):
    refused = []

    def draw(*_, **__):
        refused.append(is_refused(Path("run")))

    monkeypatch.setattr("sgdm.plots.training.draw_curves", draw)
    monkeypatch.setattr("sgdm.plots.training.draw_comparison", draw)
    interrupted_after_an_epoch(sgdm_train, monkeypatch)
    for arguments in ([], ["--conventions", "torch,caffe"]):
        sgdm_train(*QUICK, *arguments, "--out", "run", "--overwrite")
    assert refused == [True] * 3
    assert not is_refused(Path("run"))


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


def test_a_second_launch_is_refused_until_ctrl_c_which_says_how_to_go_on(tmp_path, sgdm_train):
    process = spawn(
        *QUICK[:2], "--epochs", "3000", "--out", "run", cwd=tmp_path, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "run/checkpoint.pt").exists():
        time.sleep(0.02)
    for argument, *second in (
        ("out", *QUICK),
        ("out", *QUICK, "--overwrite"),
        ("out", *QUICK, "--overwrite", "--conventions", "torch,caffe"),
        ("resume",),
    ):
        assert sgdm_train(*second, f"--{argument}", "run") == (
            2,
            "",
            f"sgdm: {argument} must be a folder that no other run is at work in, got "
            f"'run'; process {process.pid} is: wait for it, stop it, or name another one\n",
        )
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(
        r"sgdm: interrupted after \d+ of 135000 steps; go on with: sgdm train --resume run\n", err
    )


def shown_in_terminal(*arguments: str, cwd: Path, **variables: str) -> tuple[int, str]:
    """The command in a terminal of 120 columns and 30 lines: exit status, and all that it wrote."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    own = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment = {**own, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **variables}
    process = spawn(*arguments, cwd=cwd, stdout=follower, stderr=follower, env=environment)
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
    os.close(leader)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())  # without colours and moves
    return process.wait(), text.replace("\r", "")


@pytest.mark.long
def test_a_terminal_shows_a_bar_with_loss_accuracy_and_speed(tmp_path):
    status, text = shown_in_terminal(*QUICK[:2], "--epochs", "6", "--out", "run", cwd=tmp_path)
    assert status == 0
    assert re.search(r"training .*/270.*loss \d\.\d{4}  accuracy [\d.]+ %  \d+ steps/s", text)
    assert "epoch 1:" not in text
    assert "test accuracy" in text


def test_live_draws_the_curves_above_the_bar(tmp_path):
    status, text = shown_in_terminal(*QUICK, "--out", "run", "--live", cwd=tmp_path)
    assert status == 0, text
    last = RunFolder(tmp_path / "run").read_metrics()[-1]
    picture, bar = text.rsplit("\ntraining ", 1)
    picture = picture[picture.rindex("loss ", 0, picture.rindex("accuracy, %")) :]
    assert re.search(r"24/24.*loss \d\.\d{4}  accuracy [\d.]+ %  \d+ steps/s", bar)
    assert f"epoch 2   lr {last.lr:.3g}   momentum 0.9" in picture
    for end in (
        f"train {last.train_loss:.3g}",
        f"test {last.test_loss:.3g}",
        f"train {100 * last.train_accuracy:.3g}",
        f"test {100 * last.test_accuracy:.3g}",
    ):
        assert re.search(rf" {re.escape(end)}\s", picture)
    assert re.search("[\u2801-\u28ff]", picture)


@pytest.mark.long
def test_live_draws_a_curve_a_convention(tmp_path):
    arguments = [*QUICK, "--conventions", "torch,caffe", "--out", "run", "--live"]
    status, text = shown_in_terminal(*arguments, cwd=tmp_path)
    assert status == 0, text
    picture = text[text.rindex("training loss") : text.rindex("\ntraining ")]
    assert [len(re.findall(rf"{name} \d", picture)) for name in ("torch", "caffe")] == [3, 3]
    assert "distance from torch" in picture


@pytest.mark.long
def test_live_goes_on_with_the_curves_of_a_run_that_goes_on(tmp_path, sgdm_train, monkeypatch):
    interrupted_after_an_epoch(sgdm_train, monkeypatch)
    status, text = shown_in_terminal("--resume", "run", "--live", cwd=tmp_path)
    assert status == 0, text
    assert re.search(r"1 +2 epoch +1 +2 epoch *\nepoch 2   lr", text), "both epochs are drawn"


@pytest.mark.parametrize(
    ("term", "encoding", "got"),
    [
        ("dumb", "utf-8", "one with TERM='dumb'"),
        ("xterm", "latin-1", "one with the encoding latin-1"),
    ],
)
def test_live_needs_a_terminal_that_can_draw(sgdm_train, monkeypatch, term, encoding, got):
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb"), os.fdopen(follower, "w", encoding=encoding) as terminal:
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys, "stdout", terminal)
        status, _, err = sgdm_train(*QUICK, "--live")
    assert status == 2
    assert err == (
        "sgdm: --live needs standard output to be a UTF-8 terminal whose cursor can be moved, got "
        f"{got}; leave it out for a line an epoch, or take --tensorboard\n"
    )
    assert not Path("runs").exists()


def test_live_into_a_file_is_refused(sgdm_train):
    status, out, err = sgdm_train(*QUICK, "--live")
    assert (status, out) == (2, "")
    assert "got a file or a pipe; leave it out" in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("module", "flag", "extra"),
    [("plotille", "--live", "train"), ("tensorboard", "--tensorboard", "tensorboard")],
)
def test_what_watching_needs_is_asked_for_before_the_run(
    sgdm_train, monkeypatch, module, flag, extra
):
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    status, out, err = sgdm_train(*QUICK, flag)
    assert (status, out) == (2, "")
    assert err == f"sgdm: {module} must be installed for this; run: pip install 'sgdm[{extra}]'\n"
    assert not Path("runs").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "files"),
    [([], ["metrics.csv", "checkpoint.pt"]), (["--conventions", "torch,caffe"], ["compare.csv"])],
)
def test_watching_changes_no_bit(tmp_path, sgdm_train, arguments, files):
    sgdm_train(*QUICK, *arguments, "--out", "plain")
    watched = [*QUICK, *arguments, "--out", "watched", "--live", "--tensorboard"]
    status, text = shown_in_terminal(*watched, cwd=tmp_path)
    assert status == 0, text
    for name in files:
        assert Path("watched", name).read_bytes() == Path("plain", name).read_bytes()
    sgdm_train(*QUICK, *arguments, "--out", "plain", "--overwrite", "--seed", "1")
    for name in files:
        assert Path("watched", name).read_bytes() != Path("plain", name).read_bytes()


def interrupted_after_an_epoch(sgdm_train, monkeypatch, *arguments: str) -> None:
    """Leaves a run of two epochs after the first, in "run"."""
    with monkeypatch.context() as patch:
        patch.setattr(
            ShownProgress, "finished_epoch", lambda *_: os.kill(os.getpid(), signal.SIGINT)
        )
        assert sgdm_train(*QUICK, "--out", "run", *arguments)[0] == 130


def scalars_in(folder: str) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads: the epochs and numbers of every curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(folder, size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def scalars_of(run: str) -> dict[str, list[tuple[int, float]]]:
    """What it should read of a run: TensorBoard keeps float32."""
    rows = RunFolder(Path(run)).read_metrics()
    fields = {
        "loss/train": "train_loss",
        "loss/test": "test_loss",
        "accuracy/train": "train_accuracy",
        "accuracy/test": "test_accuracy",
        "lr": "lr",
        "momentum": "momentum",
    }
    return {
        tag: [(row.epoch, float(np.float32(getattr(row, field)))) for row in rows]
        for tag, field in fields.items()
    }


def test_tensorboard_reads_the_metrics(sgdm_train):
    status, _, err = sgdm_train(*QUICK, "--out", "run", "--tensorboard")
    assert (status, err) == (0, "")
    assert scalars_in("run/tensorboard") == scalars_of("run")
    assert len(scalars_of("run")["lr"]) == 2


@pytest.mark.parametrize("first", [["--tensorboard"], []], ids=["from the start", "from then on"])
def test_tensorboard_goes_on_in_the_same_curves(sgdm_train, monkeypatch, first):
    interrupted_after_an_epoch(sgdm_train, monkeypatch, *first)
    time.sleep(1.1)  # event files are read in the order of the second that they are named by
    status, _, err = sgdm_train("--resume", "run", "--tensorboard")
    assert (status, err) == (0, "")
    assert scalars_in("run/tensorboard") == scalars_of("run")
    assert len(scalars_of("run")["lr"]) == 2
    assert len(list(Path("run/tensorboard").iterdir())) == 1 + len(first)


def test_tensorboard_has_a_run_a_convention(sgdm_train):
    names = "torch,caffe,torch:nesterov"
    status, _, err = sgdm_train(*QUICK, "--conventions", names, "--out", "run", "--tensorboard")
    assert (status, err) == (0, "")
    folders = sorted(folder.name for folder in Path("run/tensorboard").iterdir())
    assert folders == ["caffe", "torch", "torch-nesterov"]
    with Path("run/compare.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["convention"] == "caffe"]
    scalars = scalars_in("run/tensorboard/caffe")
    assert len(scalars) == 8
    for tag, column in (("distance/measured", "distance"), ("distance/predicted", "predicted")):
        ends = [rows[step][column] for step in (11, 23)]
        assert scalars[tag] == [(e, float(np.float32(float(v)))) for e, v in enumerate(ends, 1)]
    assert scalars["lr"] == [(1, float(np.float32(0.1))), (2, float(np.float32(0.01)))]
    losses = [float(row["loss"]) for row in rows]
    # 11 batches of 128 and one of 29.
    mean = sum(v * n for v, n in zip(losses[:12], [128] * 11 + [29], strict=True)) / 1437
    assert scalars["loss/train"][0][1] == pytest.approx(mean, rel=1e-6)
    score = json.loads(Path("run/config.json").read_text())["scores"]["caffe"]
    assert scalars["accuracy/test"][-1] == (2, float(np.float32(score["accuracy"])))


def test_a_run_with_event_files_is_replaced_whole_and_no_other_file_there(sgdm_train):
    sgdm_train(*QUICK, "--out", "run", "--tensorboard")
    assert sgdm_train(*QUICK, "--out", "run", "--overwrite")[0] == 0
    assert not Path("run/tensorboard").exists()
    sgdm_train(*QUICK, "--out", "run", "--overwrite", "--tensorboard")
    Path("run/tensorboard/notes.txt").write_text("mine")
    status, _, err = sgdm_train(*QUICK, "--out", "run", "--overwrite")
    assert status == 2
    assert "run holds notes.txt, which no run wrote" in err
    assert Path("run/tensorboard/notes.txt").read_text() == "mine"


def test_a_link_in_place_of_the_event_files_is_left_alone(sgdm_train):
    sgdm_train(*QUICK, "--out", "run")
    Path("elsewhere").mkdir()
    Path("run/tensorboard").symlink_to(Path("elsewhere").absolute())
    status, _, err = sgdm_train(*QUICK, "--out", "run", "--overwrite")
    assert (status, "run holds tensorboard, which no run wrote" in err) == (2, True)


def test_event_files_that_cannot_be_written_are_told(sgdm_train, monkeypatch):
    interrupted_after_an_epoch(sgdm_train, monkeypatch)
    Path("run/tensorboard").write_text("in the way")
    status, _, err = sgdm_train("--resume", "run", "--tensorboard")
    assert status == 2
    assert re.match(r"sgdm: run/tensorboard cannot be written \(.+\); make room, or go on", err)
