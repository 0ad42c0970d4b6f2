"""The training job: data, models, schedules, runs that resume to the same bits, bad input."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sgdm
from crashing import CrashError, StopAfter, crashing_at, no_room
from sgdm.cli import main
from sgdm.errors import (
    DivergedError,
    FileError,
    InterruptedRunError,
    InvalidTypeError,
    InvalidValueError,
    SgdmError,
)
from sgdm.training.checkpoint import load_checkpoint
from sgdm.training.data import load_data
from sgdm.training.folder import RunFolder
from sgdm.training.learner import Learner
from sgdm.training.lr_schedule import learning_rate
from sgdm.training.models import build_model
from sgdm.training.observer import Observer
from sgdm.training.run import resume, train
from sgdm.training.settings import Settings

QUICK = Settings(model="linear", epochs=3, batch_size=64)


def content_of(path: Path) -> dict[str, bytes | dict]:
    """What a run left: its metrics to the byte, its checkpoint to the bit."""
    saved = torch.load(path / "checkpoint.pt", weights_only=True)
    return {"metrics": (path / "metrics.csv").read_bytes(), "checkpoint": saved}


def assert_same_run(a: Path, b: Path) -> None:
    one, other = content_of(a), content_of(b)
    assert one["metrics"] == other["metrics"]
    assert_same(one["checkpoint"], other["checkpoint"])


def assert_same(a, b) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


# ---- models and schedules ----


@pytest.mark.parametrize("kind", ["linear", "mlp", "cnn"])
def test_a_model_is_its_seed(kind):
    data = load_data("digits", seed=0)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    a, b, c = (build_model(kind, data, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator is left alone"
    for p, q, r in zip(a.parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, r)
    assert a(data.train_x[:3]).shape == (3, 10)


def test_a_cnn_wants_images(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=np.arange(40.0).reshape(20, 2), y=np.repeat([0, 1], 10))
    with pytest.raises(InvalidValueError, match="model must be 'linear' or 'mlp' for data without"):
        build_model("cnn", load_data(str(path), seed=0), seed=0)


def rates(total=100, per_epoch=10, **settings) -> list[float]:
    given = replace(QUICK, lr=1.0, **settings)
    return [learning_rate(given, t, total=total, per_epoch=per_epoch) for t in range(total)]


def test_learning_rate_schedules():
    assert set(rates(lr_schedule="constant")) == {1.0}
    steps = rates(lr_schedule="steps", lr_drops=(0.75, 0.5), lr_drop_factor=0.5)
    assert (steps[49], steps[50], steps[74], steps[75]) == (1.0, 0.5, 0.5, 0.25)
    cosine = rates(lr_schedule="cosine")
    assert cosine[0] == 1.0
    assert cosine[50] == pytest.approx(0.5)
    assert cosine[99] < 1e-3
    assert cosine == sorted(cosine, reverse=True)


def test_warm_up_is_linear_and_ends():
    warm = rates(lr_schedule="constant", warmup_epochs=2)
    assert warm[:4] == [1 / 20, 2 / 20, 3 / 20, 4 / 20]
    assert set(warm[19:]) == {1.0}


@pytest.mark.parametrize("kind", ["constant", "nesterov", "su-boyd-candes", "sutskever", "demon"])
@pytest.mark.parametrize("convention", ["torch", "nag"])
def test_momentum_schedules(kind, convention):
    settings = replace(QUICK, momentum_schedule=kind, convention=convention, momentum=0.75)
    learner = Learner(settings, load_data("digits", seed=0))
    ahead = int(convention == "nag")
    expected = {
        "constant": lambda t: 0.75,
        "nesterov": sgdm.schedule.nesterov(),
        "su-boyd-candes": sgdm.schedule.su_boyd_candes(),
        "sutskever": sgdm.schedule.sutskever(0.75),
        "demon": sgdm.schedule.demon(0.75, learner.total),
    }[kind]
    for t in (0, 1, 30):
        learner.set_hyperparameters(t)
        assert learner.optimizer.param_groups[0]["momentum"] == expected(t + ahead)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs must be between 1 and a million, got 0; pass --epochs again"),
        ({"epochs": 10**20}, "epochs must be between 1 and a million"),
        ({"batch_size": 0}, "batch_size must be between 1 and"),
        ({"seed": -1}, "seed must be between 0 and"),
        ({"warmup_epochs": float("nan")}, "warmup_epochs must be between 0 and a million"),
        ({"lr_drop_factor": float("inf")}, "lr_drop_factor must be between 0 and 1"),
        ({"lr_drops": (0.5, 1.5)}, "lr_drops must be parts of the run"),
        ({"model": "gpt"}, "model must be one of linear, mlp, cnn, got 'gpt'"),
        ({"lr_schedule": "x"}, "lr_schedule must be one of constant, steps, cosine"),
        ({"momentum_schedule": "x"}, "momentum_schedule must be one of constant, nesterov"),
        ({"evaluate_at": "x"}, "evaluate_at must be one of look-ahead, iterate"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(InvalidValueError, match=message):
        replace(QUICK, **setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 2.0}, "epochs must be of type int, got 2.0"),
        ({"epochs": True}, "epochs must be of type"),
        ({"epochs": "3"}, "epochs must be of type"),
        ({"nesterov": "no"}, "nesterov must be of type bool, got 'no'"),
        ({"nesterov": None}, "nesterov must be of type"),
        ({"data": None}, "data must be of type str"),
        ({"lr": None}, "lr must be a number, got None"),
        ({"convention": []}, "convention must be of type"),
        ({"lr_drops": ("a",)}, "lr_drops must be a list of numbers"),
    ],
)
def test_settings_of_another_type(setting, message):
    with pytest.raises(InvalidTypeError, match=message):
        replace(QUICK, **setting)


def test_settings_survive_json():
    settings = replace(QUICK, lr_drops=(0.25, 0.5), weight_decay_mode="lr")
    assert Settings.from_plain(json.loads(json.dumps(settings.as_plain()))) == settings


def test_settings_of_a_later_version_are_refused():
    with pytest.raises(InvalidValueError, match=r"settings must be .* got \['colour'\]"):
        Settings.from_plain({**QUICK.as_plain(), "colour": 1})


# ---- one run ----


@pytest.mark.parametrize(
    ("epochs", "accuracy"), [(4, 0.95), pytest.param(20, 0.97, marks=pytest.mark.long)]
)
def test_the_default_run_learns_the_digits(tmp_path, epochs, accuracy):
    assert Settings().epochs == 20
    metrics = train(Settings(epochs=epochs), tmp_path / "run")
    assert metrics[-1].test_accuracy > accuracy
    assert [row.epoch for row in metrics] == list(range(1, epochs + 1))
    assert metrics[-1].step == 45 * epochs


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"convention": "sutskever", "nesterov": True},
        {"convention": "nag", "momentum_schedule": "su-boyd-candes", "evaluate_at": "iterate"},
        {"weight_decay_mode": "lr/lr0", "dampening": 0.3},
    ],
    ids=str,
)
def test_the_same_seed_gives_the_same_bits(tmp_path, settings):
    for name in ("a", "b"):
        train(replace(QUICK, **settings), tmp_path / name)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    train(replace(QUICK, **settings, seed=1), tmp_path / "c")
    assert (tmp_path / "a/metrics.csv").read_bytes() != (tmp_path / "c/metrics.csv").read_bytes()


def test_a_run_is_evaluated_at_theta_where_asked(tmp_path):
    ends = {}
    for point in ("look-ahead", "iterate"):
        settings = replace(QUICK, convention="nag", evaluate_at=point, lr_schedule="constant")
        ends[point] = train(settings, tmp_path / point)[-1]
    assert ends["look-ahead"].train_loss == ends["iterate"].train_loss
    assert ends["look-ahead"].test_loss != ends["iterate"].test_loss


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("steps", [1, 22, 23, 24, 60])
def test_an_interrupted_run_says_how_to_go_on_and_ends_with_the_same_bits(tmp_path, steps, number):
    settings = replace(QUICK, dampening=0.5, momentum_schedule="demon")
    train(settings, tmp_path / "whole")
    before = signal.getsignal(number)  # ignored, in a shell's background
    with pytest.raises(InterruptedRunError) as caught:
        train(settings, tmp_path / "run", observer=StopAfter(steps, number))
    assert str(caught.value) == (
        f"interrupted after {steps} of 69 steps; go on with: sgdm train --resume {tmp_path / 'run'}"
    )
    assert signal.getsignal(number) is before
    with pytest.raises(InterruptedRunError):
        resume(tmp_path / "run", observer=StopAfter(3, number))
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_finished_run_resumes_to_itself(tmp_path):
    first = train(QUICK, tmp_path / "run")
    before = content_of(tmp_path / "run")
    assert resume(tmp_path / "run") == first
    assert_same(content_of(tmp_path / "run"), before)


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(train(QUICK, tmp_path / "run")))
    thread.start()
    thread.join()
    assert len(done[0]) == 3


def test_a_crash_at_any_write_loses_only_what_is_beyond_the_checkpoint(tmp_path):
    """Before and after every write that a run makes; each time it resumes to the same bits."""
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "few.npz", x=draw.normal(size=(40, 4)), y=np.arange(40) % 2)
    settings = replace(QUICK, data=str(tmp_path / "few.npz"), epochs=2, batch_size=16)
    train(settings, tmp_path / "whole")
    moments = 0
    for moment in range(1000):
        path = tmp_path / f"run{moment}"
        with crashing_at(moment):
            try:
                train(settings, path)
            except CrashError:
                pass
            else:
                break
        moments += 1
        if (path / "config.json").exists():
            resume(path)
        else:
            with pytest.raises(FileError, match=r"it has no config\.json"):
                resume(path)
            train(settings, path, overwrite=True)
        assert_same_run(tmp_path / "whole", path)
    assert moments >= 20


def test_what_a_killed_run_left_half_written_does_not_hinder_another(tmp_path):
    path = tmp_path / "run"
    train(QUICK, path)
    (path / f".checkpoint.pt.{'0' * 16}.tmp").write_bytes(b"half")
    train(QUICK, path, overwrite=True)
    (path / ".checkpoint.pt.mine.tmp").write_bytes(b"whole")
    with pytest.raises(FileError, match=r"mine\.tmp, which no run wrote"):
        train(QUICK, path, overwrite=True)


@pytest.mark.long
def test_killed_at_random_times_a_run_goes_on_to_the_same_bits(tmp_path, seed):
    draw = random.Random(seed)
    settings = replace(QUICK, epochs=60)
    train(settings, tmp_path / "whole")
    arguments = ["--model", "linear", "--epochs", "60", "--batch-size", "64"]
    path = tmp_path / "run"
    program = [sys.executable, "-m", "sgdm", "train"]
    options = [*arguments, "--out", str(path)]
    kills, status = 0, None
    for _ in range(12):
        process = subprocess.Popen([*program, *options], stdout=subprocess.DEVNULL)
        while not (path / "checkpoint.pt").exists() and process.poll() is None:
            time.sleep(0.005)
        if kills < 5:
            time.sleep(draw.uniform(0.0, 0.6) + (2.0 if kills else 0.0))
            process.send_signal(signal.SIGKILL)
        if (status := process.wait()) == 0:
            break
        kills += 1
        options = ["--resume", str(path)]
    assert status == 0
    assert kills >= 1
    assert_same_run(tmp_path / "whole", path)


# ---- bad input ----


def test_a_diverging_run_keeps_its_files(tmp_path):
    settings = replace(QUICK, model="mlp", lr=50.0, lr_schedule="constant")
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step \d+ of 69; .*--lr"):
        train(settings, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert folder.read_settings() == settings
    assert folder.checkpoint.exists()
    assert folder.metrics.exists()


def test_an_existing_run_is_not_overwritten_unasked(tmp_path):
    train(QUICK, tmp_path / "run")
    before = content_of(tmp_path / "run")
    with pytest.raises(FileError, match="holds something already; go on with a run by --resume"):
        train(QUICK, tmp_path / "run")
    with pytest.raises(InvalidValueError, match="momentum"):
        train(replace(QUICK, momentum=-1.0), tmp_path / "run", overwrite=True)
    assert_same(content_of(tmp_path / "run"), before)
    train(replace(QUICK, seed=1), tmp_path / "run", overwrite=True)
    assert content_of(tmp_path / "run")["metrics"] != before["metrics"]


def test_overwriting_keeps_the_old_run_until_the_new_one_has_its_first_files(tmp_path, monkeypatch):
    """A disk that is full, or a crash, at every write: the old run is there, or the new one."""
    path = tmp_path / "run"
    train(QUICK, path)
    old = content_of(path)
    other = replace(QUICK, seed=1)
    real = {"rename": Path.rename, "fsync": os.fsync}
    kept_old = 0
    for failing in range(1000):
        count = 0

        def counted(operation, *arguments, failing=failing):
            nonlocal count
            count += 1
            if count > failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real[operation](*arguments)

        class Stop(Observer):
            def started(self, step, total):
                raise CrashError

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", lambda *a: counted("rename", *a))
            patch.setattr(os, "fsync", lambda *a: counted("fsync", *a))
            with pytest.raises((FileError, CrashError)) as caught:
                train(other, path, overwrite=True, observer=Stop())
        if caught.type is CrashError:
            break
        text = str(caught.value)
        assert re.match(rf"{path}(/[\w.]+)? cannot be written \(No space left on device\)", text)
        kept_old += 1
        RunFolder(path).read_settings()  # recovers
        assert_same(content_of(path), old)
        assert [file.name for file in tmp_path.iterdir()] == ["run"]
    assert kept_old >= 6
    assert RunFolder(path).read_settings() == other


def test_a_folder_that_is_no_run_is_never_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileError, match=r"holds thesis.tex, which no run wrote"):
        train(QUICK, tmp_path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(FileError, match="out must be a folder, got"):
        train(QUICK, tmp_path / "run")
    with pytest.raises(FileError, match=r"cannot be written \(Not a directory\)"):
        train(QUICK, tmp_path / "run" / "below")


MISSING = r"cannot be read \(No such file or directory\)"
DAMAGES = [
    (lambda path: (path / "config.json").unlink(), "resume must be the folder of a run"),
    (lambda path: (path / "config.json").write_text("{"), "config.json is damaged"),
    (lambda path: (path / "config.json").write_text("[]"), "config.json is damaged"),
    (lambda path: (path / "config.json").write_bytes(b"\xff"), "config.json is damaged"),
    (lambda path: (path / "config.json").write_text("[" * 10**5), "config.json is damaged"),
    (lambda path: edit_config(path, epochs="3"), "config.json is damaged .epochs must be"),
    (lambda path: edit_config(path, lr=10**400), "config.json is damaged .lr must be at most"),
    (lambda path: edit_config(path, lr_drops="ab"), "config.json is damaged .lr_drops must be"),
    (lambda path: edit_config(path, model="mlp"), "is of a run with other settings"),
    (lambda path: edit_config(path, seed=5), "is of a run with other"),
    (lambda path: (path / "metrics.csv").unlink(), MISSING),
    (lambda path: (path / "metrics.csv").write_text("h\n"), "damaged .its first line is 'h'"),
    (lambda path: (path / "metrics.csv").write_bytes(b"\xff\xfe\n"), "metrics.csv is damaged"),
    (lambda path: edit_metrics(path, lambda lines: lines[:1]), "has not the 1 epochs up to"),
    (lambda path: edit_metrics(path, lambda lines: [*lines, lines[1]]), "has not the 1 epochs"),
    (lambda path: edit_metrics(path, lambda lines: [lines[0], "1,x"]), "metrics.csv is damaged"),
    (lambda path: (path / "checkpoint.pt").unlink(), MISSING),
    (lambda path: (path / "checkpoint.pt").write_bytes(b""), "is no checkpoint that can be"),
    (lambda path: (path / "checkpoint.pt").write_bytes(b"PK\x03\x04"), "is no checkpoint"),
    (lambda path: torch.save([1], path / "checkpoint.pt"), "is no checkpoint that can be read"),
    (lambda path: edit_checkpoint(path, progress=["a", 0.0, 0, 0]), "is no checkpoint that"),
    (lambda path: edit_checkpoint(path, progress=[-5, 0.0, 0, 0]), "is no checkpoint that"),
    (lambda path: edit_checkpoint(path, progress=[10**9, 0.0, 0, 0]), "is no checkpoint that"),
    (lambda path: edit_checkpoint(path, progress=[1.5, 0.0, 0, 0]), "is no checkpoint that"),
    (lambda path: edit_checkpoint(path, data="0" * 16), "is of a run with other data"),
    (lambda path: edit_checkpoint(path, format=99), "is of a run with other format"),
    (lambda path: edit_checkpoint(path, model={}), r"is of another model \(.*\); start"),
    (lambda path: edit_checkpoint(path, optimizer={}), "is of another model"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGES)
def test_damaged_and_foreign_files_are_named_and_left_alone(tmp_path, change, message):
    path = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        train(QUICK, path, observer=StopAfter(30))
    change(path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(SgdmError, match=message):
        resume(path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def edit_metrics(path: Path, change) -> None:
    lines = change((path / "metrics.csv").read_text().splitlines())
    (path / "metrics.csv").write_text("".join(f"{line}\n" for line in lines))


def edit_config(path: Path, **settings) -> None:
    content = json.loads((path / "config.json").read_text())
    content["settings"].update(settings)
    (path / "config.json").write_text(json.dumps(content))


def edit_checkpoint(path: Path, **entries) -> None:
    content = torch.load(path / "checkpoint.pt", weights_only=True)
    torch.save({**content, **entries}, path / "checkpoint.pt")


def test_flipped_bits_in_a_checkpoint_are_found(tmp_path, seed):
    """The archive has checksums: a flip in the tensors is found, not trained on."""
    path = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        train(QUICK, path, observer=StopAfter(30))
    file = path / "checkpoint.pt"
    whole = file.read_bytes()
    reference = torch.load(file, weights_only=True)
    draw, found = random.Random(seed), 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        learner = Learner(QUICK, load_data("digits", seed=0))
        try:
            load_checkpoint(file, learner, reference["data"])
        except FileError:
            found += 1
        else:  # the flip was in padding or in a name that nothing reads
            assert_same(learner.model.state_dict(), reference["model"])
    assert found >= 20


def test_pickled_code_in_a_checkpoint_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "boom"),))

    path = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        train(QUICK, path, observer=StopAfter(30))
    torch.save({"model": Bomb()}, path / "checkpoint.pt")
    with pytest.raises(FileError, match="is no checkpoint"):
        resume(path)
    assert not (tmp_path / "boom").exists()


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    """No file may grow beyond a limit that the first checkpoint fits into and the next does not."""
    train(replace(QUICK, epochs=1), tmp_path / "measured")
    bare = Learner(QUICK, load_data("digits", seed=0))
    weights = sum(p.numel() * 4 for p in bare.model.parameters())
    limit = (tmp_path / "measured/checkpoint.pt").stat().st_size - weights // 2
    path = tmp_path / "run"
    arguments = ["--model", "linear", "--epochs", "3", "--batch-size", "64", "--out", str(path)]
    monkeypatch.setattr(sys, "argv", ["sgdm", "train", *arguments])
    with no_room(limit), pytest.raises(SystemExit) as stop:
        main()
    err = capsys.readouterr().err
    assert stop.value.code == 2, err
    assert err.count("\n") == 1
    assert "checkpoint.pt cannot be written (File too large); make room" in err
    resume(path)
    train(QUICK, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", path)


@pytest.mark.parametrize("device", ["nonsense", "cuda:77", "meta"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(InvalidValueError, match="device must be one that torch has here, got"):
        Learner(replace(QUICK, device=device), load_data("digits", seed=0))
