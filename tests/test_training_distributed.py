"""Training in several processes: the same numbers, checkpoints that any number resumes, failures.

The processes are forked from a server that has loaded torch: a start costs milliseconds.
"""

import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

from crashing import CrashError, StopAfter, crashing_at, no_room
from sgdm.cli import launch as launch_module
from sgdm.cli.launch import launch
from sgdm.errors import (
    DivergedError,
    FileError,
    InterruptedRunError,
    InvalidValueError,
    LostProcessError,
    SgdmError,
)
from sgdm.training import checkpoint_together
from sgdm.training import run as run_module
from sgdm.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from sgdm.training.checkpoint_together import load_together, save_together
from sgdm.training.data import load_data
from sgdm.training.folder import RunFolder
from sgdm.training.learner import Learner
from sgdm.training.observer import Observer
from sgdm.training.run import resume, train
from sgdm.training.settings import Settings
from sgdm.training.world import World, joined
from test_cli_train import shown_in_terminal
from test_training import assert_same
from test_training_lock import held_by_another

pytestmark = pytest.mark.long
QUICK = Settings(model="mlp", epochs=2, batch_size=100)
TIMEOUT = 60

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "sgdm.cli.train",
        "sgdm.training.checkpoint_together",
        "sgdm.training.run",
        "sklearn.datasets",
        "sklearn.model_selection",
        "torch._dynamo",  # FSDP2 loads it
        "torch.distributed.fsdp",
    ]
)


# ---- processes for tests ----


def in_processes(
    size: int,
    folder: Path,
    work: Callable[..., Any],
    *arguments: Any,
    exits: Sequence[int] | None = None,
) -> list[Any]:
    """What the work returned in each of so many processes, or the SgdmError that it raised."""
    exits = exits or [0] * size
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    meeting.mkdir()
    processes = [
        SERVER.Process(target=enter, args=(rank, size, meeting, work, arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        deadline = time.monotonic() + TIMEOUT
        for process in processes:
            process.join(max(0, deadline - time.monotonic()))
        assert [process.exitcode for process in processes] == exits
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [
        None if status else torch.load(meeting / f"{rank}", weights_only=False)
        for rank, status in enumerate(exits)
    ]


def enter(rank: int, size: int, meeting: Path, work: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ["SGDM_RENDEZVOUS"] = (meeting / "rendezvous").as_uri()
    try:
        with joined() as world:
            result = work(world, *arguments)
    except SgdmError as error:
        result = error
    torch.save(result, meeting / f"{rank}")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (getattr(tensor, "full_tensor", tensor.clone)()).detach()


def state_of(learner: Learner) -> dict[str, torch.Tensor]:
    """The parameters and all that the optimizer keeps of them, whole."""
    state = {}
    for name, param in learner.model.named_parameters():
        state[name] = whole(param)
        for key, value in learner.optimizer.state.get(param, {}).items():
            state[f"{name}.{key}"] = whole(torch.as_tensor(value))
    return state


def saved_in(path: Path, settings: Settings) -> dict[str, torch.Tensor]:
    """What a run has saved, read by one process."""
    data = load_data(settings.data, seed=settings.seed)
    learner = Learner(settings, data)
    load_together(path / "checkpoint", learner, data.fingerprint)
    return state_of(learner)


# ---- the same numbers ----


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    """Images, 13 of them for training: of batches of 4 the last has 1, for whoever gets it."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    draw = np.random.default_rng(0)
    np.savez(path, x=draw.normal(size=(17, 6, 6)), y=np.arange(17) % 2)
    return str(path)


def cases(tiny: str) -> list[Settings]:
    few = Settings(data=tiny, batch_size=4, epochs=3, lr=0.05)
    return [
        few,
        replace(few, model="linear", dampening=0.3),
        replace(few, model="mlp", convention="sutskever", nesterov=True),
        replace(few, model="mlp", convention="nag", evaluate_at="iterate", lr_schedule="steps"),
        replace(QUICK, batch_size=1437, epochs=10, momentum_schedule="demon"),
    ]


def trajectories(world: World, each: list[Settings], shards: list[bool]) -> list[Any]:
    """Of every case: the batches as seen, and where the run ends; in float64."""
    results = []
    for settings in each:
        data = load_data(settings.data, seed=settings.seed)
        for shard in shards:
            learner = Learner(settings, data, dtype=torch.float64, world=world, shard=shard)
            seen = []
            for t in range(min(learner.total, 12)):
                seen.append(learner.step(t))
                if t % 3 == 0:
                    seen.append(learner.evaluate())
            results.append((seen, state_of(learner)))
    return results


@pytest.mark.parametrize("size", [2, 3, 4])
def test_several_processes_see_what_one_sees(tmp_path, tiny, size):
    """In float64, where only the order of sums differs; some processes have no example.

    Measured: 2.3e-16 of the largest parameter, and 8.9e-16 of a loss.
    """
    each = cases(tiny)
    alone = [result for result in trajectories(World(), each, [False]) for _ in range(2)]
    for results in in_processes(size, tmp_path, trajectories, each, [False, True]):
        for (seen, state), (expected, end) in zip(results, alone, strict=True):
            for one, other in zip(seen, expected, strict=True):
                assert one.loss == pytest.approx(other.loss, rel=4e-15)
                assert replace(one, loss=0.0) == replace(other, loss=0.0)
            assert state.keys() == end.keys()
            for name, tensor in state.items():
                close = 2e-15 * max(1.0, end[name].abs().max().item())
                torch.testing.assert_close(tensor, end[name], rtol=0, atol=close, msg=name)


# ---- checkpoints ----

Saved = tuple[Progress, dict[str, torch.Tensor]]


def save_after(world: World, settings: Settings, place: Path, steps: int, shard: bool) -> Saved:
    data = load_data(settings.data, seed=settings.seed)
    learner, progress = Learner(settings, data, world=world, shard=shard), Progress()
    for t in range(steps):
        progress.take(learner.step(t))
    save_together(place, learner, data.fingerprint, progress)
    return progress, state_of(learner)


def load_into(world: World, settings: Settings, place: Path, shard: bool) -> Saved:
    data = load_data(settings.data, seed=settings.seed)
    learner = Learner(settings, data, world=world, shard=shard)
    progress = load_together(place, learner, data.fingerprint)
    return progress, state_of(learner)


def several(world: World, work: list[tuple[Callable[..., Any], Any]]) -> list[Any]:
    """One launch for many."""
    return [function(world, *arguments) for function, arguments in work]


KEPT = {
    "copied": (replace(QUICK, dampening=0.5), 5, False),
    "sharded": (replace(QUICK, dampening=0.5), 5, True),
    "before any step": (replace(QUICK, dampening=0.5), 0, True),
    "look-ahead": (replace(QUICK, convention="sutskever", nesterov=True), 5, True),
    "without momentum": (replace(QUICK, momentum=0.0), 5, False),
}


def test_what_four_processes_saved_two_and_one_load_to_the_bit(tmp_path):
    save = [
        (save_after, (settings, tmp_path / name, steps, shard))
        for name, (settings, steps, shard) in KEPT.items()
    ]
    saved, *others = in_processes(4, tmp_path, several, save)
    load = [
        (load_into, (settings, tmp_path / name, shard))
        for name, (settings, _, _) in KEPT.items()
        for shard in (False, True)
    ]
    twice = [one for one in saved for _ in range(2)]
    pairs = [(other, saved) for other in others]
    pairs += [(loaded, twice) for loaded in in_processes(2, tmp_path, several, load)]
    pairs += [(several(World(), load[::2]), saved)]
    for loaded, expected in pairs:
        for (progress, state), (its_progress, its_state) in zip(loaded, expected, strict=True):
            assert progress == its_progress
            assert_same(state, its_state)
    assert "0.weight.momentum_buffer" not in saved[-1][1]
    assert "1.weight.momentum_buffer" in saved[0][1]


def whole_and_in_pieces(world: World, settings: Settings, folder: Path, shard: bool) -> list[str]:
    """A run, and the same one interrupted twice, in one process only; returns what that said."""
    train(settings, folder / "whole", world=world, shard=shard)
    told: list[str] = []
    begin, go_on = partial(train, settings), resume
    for rank, run in enumerate((begin, go_on)):
        observer = StopAfter(4) if world.rank == rank else Observer()
        try:
            run(folder / "run", world=world, shard=shard, observer=observer)
        except InterruptedRunError as error:
            told.append(str(error))
    resume(folder / "run", world=world, shard=shard)
    return told


def test_an_interrupted_run_of_three_ends_with_the_same_bits(tmp_path):
    """With three processes the bits of a sum depend on where in a bucket an element lies."""
    settings = replace(QUICK, dampening=0.5)
    folders = {shard: tmp_path / f"shard-{shard}" for shard in (False, True)}
    work = [(whole_and_in_pieces, (settings, folder, shard)) for shard, folder in folders.items()]
    for told in in_processes(3, tmp_path, several, work):
        for (shard, folder), texts in zip(folders.items(), told, strict=True):
            go_on = f"sgdm train --resume {folder / 'run'} --nproc 3" + " --shard" * shard
            assert texts == [
                f"interrupted after {steps} of 30 steps; go on with: {go_on}" for steps in (5, 10)
            ]
    for folder in folders.values():
        one, other = folder / "whole", folder / "run"
        assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
        assert_same(saved_in(one, settings), saved_in(other, settings))
        assert json.loads((other / "config.json").read_text())["environment"]["processes"] == 3
        assert {file.name for file in other.iterdir()} == {
            "checkpoint", "config.json", "metrics.csv",
        }  # fmt: skip


def begin_and_stop(settings: Settings, path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train(settings, path, observer=StopAfter(4))


def resume_and_stop(world: World, path: Path, shard: bool) -> tuple[dict[str, torch.Tensor], bool]:
    """What a run holds when it goes on, and whether several have saved it when it stops."""
    held: dict[str, torch.Tensor] = {}
    load = run_module._load

    def loading(folder, learner, fingerprint) -> Progress:
        progress = load(folder, learner, fingerprint)
        held.update(state_of(learner))
        return progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "_load", loading)
        with pytest.raises(InterruptedRunError):
            resume(path, world=world, shard=shard, observer=StopAfter(4))
    return held, RunFolder(path).is_saved_by_several()


def test_several_go_on_where_one_was_and_one_where_several_were(tmp_path):
    settings = replace(QUICK, dampening=0.5, epochs=3)
    data = load_data("digits", seed=0)
    work = []
    for shard in (False, True):
        path = tmp_path / f"run-{shard}"
        begin_and_stop(settings, path)
        work.append((resume_and_stop, (path, shard)))
    learner = Learner(settings, data)
    load_checkpoint(path / "checkpoint.pt", learner, data.fingerprint)
    expected = state_of(learner)
    for results in in_processes(2, tmp_path, several, work):
        for held, by_several in results:
            assert_same(held, expected)
            assert by_several
    for shard in (False, True):
        path = tmp_path / f"run-{shard}"
        assert not (path / "checkpoint.pt").exists()
        before = saved_in(path, settings)
        held, by_several = resume_and_stop(World(), path, shard=False)
        assert_same(held, before)
        assert not by_several
        assert not (path / "checkpoint").exists()
        assert len(resume(path)) == 3


def test_a_crash_at_any_write_leaves_the_old_checkpoint_or_the_new_one(tmp_path):
    """Between all renames and flushes, of a checkpoint that is there, or of one of the other kind.

    What is left is recovered to one that was saved whole.
    """
    settings, data = replace(QUICK, model="linear"), load_data("digits", seed=0)
    learner = Learner(settings, data)
    learner.step(0)
    moments = 0
    for attempt in range(2000):
        path = tmp_path / f"run{attempt}"
        path.mkdir()
        folder = RunFolder(path)
        moment, other_kind = divmod(attempt, 2)
        if other_kind:
            save_checkpoint(folder.checkpoint, learner, data.fingerprint, Progress(step=1))
        else:
            save_alone(folder.checkpoint_folder, learner, data.fingerprint, Progress(step=1))
        with crashing_at(moment):
            try:
                save_alone(folder.checkpoint_folder, learner, data.fingerprint, Progress(step=2))
            except (CrashError, FileError):  # DCP makes an error of what it meets
                pass
            else:
                break
        moments += 1
        fresh = Learner(settings, data)
        if folder.is_saved_by_several():
            progress = load_together(folder.checkpoint_folder, fresh, data.fingerprint)
        else:
            progress = load_checkpoint(folder.checkpoint, fresh, data.fingerprint)
        assert progress.step in ((1,) if other_kind else (1, 2))
        assert_same(state_of(fresh), state_of(learner))
        save_alone(folder.checkpoint_folder, learner, data.fingerprint, Progress(step=3))
        assert {file.name for file in path.iterdir()} - {"checkpoint.pt"} == {"checkpoint"}
    assert moments >= 20


def save_alone(*arguments: Any) -> None:
    """As processes save together, in one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        save_together(*arguments)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """The folder of a run that two processes have begun."""
    folder = tmp_path_factory.mktemp("saved")
    in_processes(2, folder, begin_together, folder / "run")
    return folder / "run"


def begin_together(world: World, path: Path) -> None:
    train(QUICK, path, world=world, observer=StopAfter(4))


def edit_header(path: Path, **entries: Any) -> None:
    file = path / "checkpoint/run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def sign(path: Path) -> None:
    """Forge the digests, as one may who can write into the folder."""
    edit_header(path, files=checkpoint_together._digests(path / "checkpoint"))


def put_bomb(path: Path) -> None:
    (path / "checkpoint/.metadata").write_bytes(pickle.dumps(Bomb(path)))
    sign(path)


def put_other_metadata(path: Path) -> None:
    (path / "checkpoint/.metadata").write_bytes(pickle.dumps({}))
    sign(path)


def put_attribute(path: Path) -> None:
    """As an Enum is pickled by some Pythons, but of a class that is none."""
    (path / "checkpoint/.metadata").write_bytes(pickle.dumps(Attribute()))
    sign(path)


class Attribute:
    def __reduce__(self):
        return getattr, (Metadata, "__init__")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (f"{self.path}-boom",)


DAMAGES = [
    (lambda path: (path / "checkpoint/run.json").unlink(), "cannot be read .No such file"),
    (lambda path: (path / "checkpoint/run.json").write_text("{"), "is no checkpoint that can be"),
    (lambda path: (path / "checkpoint/run.json").write_text("[]"), "is no checkpoint that can be"),
    (lambda path: edit_header(path, files={"x": ""}), "is no checkpoint .*x is not what was"),
    (lambda path: edit_header(path, data="0"), "is of a run with other data; resume it in"),
    (lambda path: edit_header(path, format=9), "is of a run with other format"),
    (lambda path: edit_header(path, settings={}), "is of a run with other settings"),
    (lambda path: edit_header(path, progress=[10**9, 0.0, 0, 0]), "is no checkpoint .*of 30 steps"),
    (lambda path: (path / "checkpoint/__1_0.distcp").unlink(), "__1_0.distcp is not what was"),
    (lambda path: (path / "checkpoint/.metadata").unlink(), "metadata is not what was written"),
    (put_bomb, r"is no checkpoint that can be read \(posix.mkdir has no place in it\)"),
    (put_other_metadata, "is no checkpoint .*it holds a dict"),
    (put_attribute, r"is no checkpoint .*'__init__' of <class '.*Metadata'> has no place in it"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGES)
def test_a_damaged_checkpoint_is_named_and_left_alone(tmp_path, saved, change, message):
    path = tmp_path / "run"
    shutil.copytree(saved, path)
    change(path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(FileError, match=rf"checkpoint(/\.?\w+)? .*{message}|{message}"):
        resume(path)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert not Path(f"{path}-boom").exists()


@pytest.mark.parametrize(
    "reduced",
    [
        lambda member, _: (getattr, (type(member), member.name)),  # Python 3.11.2
        lambda member, _: (type(member), (member.value,)),  # the others
    ],
    ids=["attribute", "value"],
)
def test_what_one_python_wrote_another_reads(tmp_path, monkeypatch, reduced):
    """Versions of Python differ in how they pickle the Enum in DCP's metadata."""
    data = load_data("digits", seed=0)
    learner, other = Learner(QUICK, data), Learner(QUICK, data)
    torch.nn.utils.vector_to_parameters(torch.zeros(10**6), other.model.parameters())
    with monkeypatch.context() as patch:
        patch.setattr(_MEM_FORMAT_ENCODING, "__reduce_ex__", reduced)
        save_alone(tmp_path / "checkpoint", learner, data.fingerprint, Progress())
    load_together(tmp_path / "checkpoint", other, data.fingerprint)
    for name, value in learner.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value)


def test_pickled_code_in_an_entry_is_not_run(tmp_path, monkeypatch):
    """DCP unpickles entries that are no tensors: here one runs code, under honest digests."""
    data = load_data("digits", seed=0)
    learner, bomb = Learner(QUICK, data), Bomb(tmp_path / "x")
    real = checkpoint_together.get_state_dict

    def with_bomb(*arguments: Any) -> Any:
        model, optimizer = real(*arguments)
        return model, {**optimizer, "param_groups": bomb}

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_together, "get_state_dict", with_bomb)
        save_alone(tmp_path / "checkpoint", learner, data.fingerprint, Progress())
    with pytest.raises(FileError, match=r"is of another model \(Weights only load failed"):
        load_together(tmp_path / "checkpoint", learner, data.fingerprint)
    assert not Path(f"{bomb.path}-boom").exists()


def test_a_flipped_bit_is_found(tmp_path, saved, seed):
    draw = random.Random(seed)
    path = tmp_path / "run"
    shutil.copytree(saved, path)
    for file in (path / "checkpoint").glob("*.distcp"):
        honest = file.read_bytes()
        for _ in range(5):
            damaged = bytearray(honest)
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            file.write_bytes(damaged)
            with pytest.raises(FileError, match=f"{file.name} is not what was written"):
                resume(path)
        file.write_bytes(honest)
    resume(path)


def test_a_run_of_several_is_replaced_whole_and_no_other_file_there(tmp_path, saved):
    path = tmp_path / "run"
    shutil.copytree(saved, path)
    shutil.copytree(saved / "checkpoint", path / ".checkpoint.new")
    RunFolder(path).refuse_existing(overwrite=True)
    mine = path / "checkpoint/notes.txt"
    mine.write_text("mine")
    with pytest.raises(FileError, match=r"holds notes\.txt, which no run wrote"):
        train(QUICK, path, overwrite=True)
    mine.unlink()
    train(QUICK, path, overwrite=True)
    assert not (path / "checkpoint").exists()


# ---- failures ----


def failures(world: World, folder: Path) -> list[SgdmError]:
    """One after the other, in the same processes: none waits for one that has failed."""
    mine = world.rank == 1
    attempts: list[Callable[[], object]] = [
        lambda: train(replace(QUICK, lr=1e4), folder / "diverged", world=world),
        lambda: train(replace(QUICK, seed=int(mine)), folder / "seeds", world=world),
        lambda: train(replace(QUICK, data="none" if mine else "digits"), folder / "a", world=world),
        lambda: train(replace(QUICK, device="cuda:1"), folder / "device", world=world),
        lambda: train(replace(QUICK, lr=-1.0), folder / "lr", world=world),
        lambda: train(QUICK, folder / "run", world=world, observer=StopAfter(4)),
        lambda: with_no_room(mine, lambda: resume(folder / "run", world=world)),
        lambda: with_no_room(not mine, lambda: resume(folder / "run", world=world)),
        lambda: with_no_room(mine, lambda: train(QUICK, folder / "full", world=world)),
        lambda: train(QUICK, folder / "run", world=world),
        lambda: resume(folder / "nowhere", world=world),
        lambda: resume_beside_another(folder / "run", world),
        lambda: train_without("LOCAL_RANK", replace(QUICK, device="cuda"), folder / "gpu", world),
    ]
    caught: list[SgdmError] = []
    for attempt in attempts:
        with pytest.raises(SgdmError) as error:
            attempt()
        caught.append(error.value)
    resume(folder / "run", world=world)
    return caught


def resume_beside_another(path: Path, world: World) -> None:
    with held_by_another(path) if world.rank == 0 else nullcontext():
        resume(path, world=world)


def train_without(name: str, settings: Settings, path: Path, world: World) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(name)
        train(settings, path, world=world)


def with_no_room(here: bool, action: Callable[[], object]) -> object:
    with no_room(100) if here else nullcontext():
        return action()


def test_an_error_of_one_process_is_that_of_all(tmp_path):
    caught = in_processes(2, tmp_path, failures, tmp_path)
    expected = [
        (DivergedError, r"the loss is (nan|inf) at step \d+ of 30; .*"),
        (
            InvalidValueError,
            r"seed must be the same in all processes, got '0 in process 0 and 1 in process 1'; "
            r"start all of them with one command, on the same data",
        ),
        (FileError, r"process 1: data must be 'digits' or the path of a \.npz file, got 'none'.*"),
        (
            InvalidValueError,
            r"device must be 'cpu' or 'cuda' for several processes, got 'cuda:1'.*",
        ),
        (InvalidValueError, r"Invalid learning rate: -1.0.*"),
        (InterruptedRunError, r"interrupted after .*"),
        (FileError, r".*/run/checkpoint cannot be written \(.*\); make room or choose .*"),
        (FileError, r".*/run/metrics.csv cannot be written \(File too large\); make room or .*"),
        (FileError, r"[^.]*/full/checkpoint cannot be written \(.*\); make room or choose .*"),
        (FileError, r".* holds something already; .*"),
        (FileError, r"resume must be the folder of a run, got .*"),
        (FileError, r"resume must be a folder that no other run is at work in, got .*"),
        (InvalidValueError, r"LOCAL_RANK must be a number from 0 to 1 in the environment, got .*"),
    ]
    for errors in caught:
        assert [type(error) for error in errors] == [kind for kind, _ in expected]
        for error, (_, text) in zip(errors, expected, strict=True):
            assert re.fullmatch(text, str(error)), error
    assert [str(error) for error in caught[0]] == [str(error) for error in caught[1]]
    assert not (tmp_path / "seeds").exists()
    assert not (tmp_path / "device").exists()


def leave(world: World, path: Path) -> None:
    class Leave(Observer):
        def stepped(self, batch):
            os._exit(7)

    train(QUICK, path, world=world, observer=Leave() if world.rank == 1 else None)


def test_the_others_of_one_that_is_gone_say_so(tmp_path):
    error, _, other = in_processes(3, tmp_path, leave, tmp_path / "run", exits=[0, 7, 0])
    for rank, lost in ((0, error), (2, other)):
        assert isinstance(lost, LostProcessError)
        assert re.fullmatch(
            rf"process {rank} has lost the connection to the others \(.*\); "
            r"go on from what was saved, with --resume",
            str(lost),
        )


def be_orphaned(world: World, path: Path) -> None:
    if world.rank == 1:
        world._launcher = "1"  # pyright: ignore[reportAttributeAccessIssue]
    train(QUICK, path, world=world)


def test_processes_whose_launcher_was_killed_save_and_stop(tmp_path):
    for error in in_processes(2, tmp_path, be_orphaned, tmp_path / "run"):
        assert str(error).startswith("interrupted after 1 of 30 steps")
    assert len(resume(tmp_path / "run")) == 2


# ---- the command ----

AT_FAULT = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
print("rank", rank, "of", os.environ["WORLD_SIZE"], flush=True)
if rank == {rank}:
    time.sleep(0.2)
    print("my fault", file=sys.stderr)
    {fault}
{others}
"""


@pytest.mark.parametrize(
    ("rank", "fault", "others", "status", "said"),
    [
        (2, "sys.exit(7)", "time.sleep(0.1); sys.exit(75)", 7, "my fault\n"),
        (2, "sys.exit(7)", "time.sleep(1000)", 7, "my fault\n"),
        (0, "sys.exit(3)", "sys.exit(75)", 3, "my fault\n"),
        (
            1,
            "os.kill(os.getpid(), signal.SIGKILL)",
            "sys.exit(75)",
            137,
            "my fault\nsgdm: process 1 of 3 was killed by SIGKILL, and the others were stopped; "
            "go on from what was saved, with --resume\n",
        ),
        (1, "sys.exit(0)", "", 0, ""),
        (1, "sys.exit(75)", "", 75, "my fault\n"),
    ],
)
def test_the_status_and_words_are_those_of_the_process_at_fault(
    monkeypatch, capfd, rank, fault, others, status, said
):
    if "1000" in others:
        monkeypatch.setattr(launch_module, "_PATIENCE", 3.0)
    script = AT_FAULT.format(rank=rank, fault=fault, others=others)
    assert launch(3, [sys.executable, "-S", "-c", script]) == status
    assert capfd.readouterr() == ("rank 0 of 3\n", said)


PATIENT = """
import os, pathlib, signal, sys, time
def note(number, frame):
    sys.exit(128 + number)
for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, note)
pathlib.Path(sys.argv[1], os.environ["RANK"]).touch()
time.sleep(30)
"""
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def press_when_ready(folder: Path, *numbers: int) -> None:
    """Send signals to this process, from a thread, once three patient ones wait for them."""

    def press() -> None:
        wait_for(lambda: len(list(folder.iterdir())) == 3)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    threading.Thread(target=press).start()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_reaches_every_process(tmp_path, number):
    before = signal.getsignal(number)
    press_when_ready(tmp_path, number)
    assert launch(3, [sys.executable, "-S", "-c", PATIENT, str(tmp_path)]) == 128 + number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_the_first_process_is_started_reaches_every_one(
    tmp_path, monkeypatch, number
):
    start = launch_module._start

    def press_and_start(command, rank, count, folder):
        if rank == 0:
            os.kill(os.getpid(), number)
        process = start(command, rank, count, folder)
        wait_for((tmp_path / str(rank)).exists)
        return process

    monkeypatch.setattr(launch_module, "_start", press_and_start)
    assert launch(3, [sys.executable, "-S", "-c", PATIENT, str(tmp_path)]) == 128 + number


def test_what_nohup_started_goes_on_without_its_terminal(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        press_when_ready(tmp_path, signal.SIGHUP, signal.SIGTERM)
        command = [sys.executable, "-S", "-c", PATIENT, str(tmp_path)]
        assert launch(3, command) == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)


def sgdm_train(*arguments: str, cwd: Path, program: Sequence[str] = ()) -> "subprocess.Popen[str]":
    command = [*(program or (sys.executable, "-m")), "sgdm", "train", *arguments]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def told(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """What it printed, but for a line of torch 2.10's Gloo for each process that is connected."""
    out, err = process.communicate(timeout=TIMEOUT)
    return re.sub(r"^\[Gloo\] .*\n", "", out, flags=re.MULTILINE), err


def children_of(process: "subprocess.Popen[str]") -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(number) for number in text.split()]


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


LONG = ["--model", "linear", "--batch-size", "100", "--epochs", "8", "--dampening", "0.5"]
IS_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc for its processes")


@IS_LINUX
def test_a_killed_process_ends_all_and_torchrun_goes_on_to_the_same_bits(tmp_path):
    settings = replace(QUICK, model="linear", epochs=8, dampening=0.5)
    in_processes(2, tmp_path, train_whole, settings, tmp_path / "whole")
    process = sgdm_train(*LONG, "--nproc", "2", "--out", "run", cwd=tmp_path)
    wait_for((tmp_path / "run/checkpoint").exists)
    workers = children_of(process)
    os.kill(workers[1], signal.SIGKILL)
    _, err = told(process)
    assert process.returncode == 137
    assert err.startswith("sgdm: process 1 of 2 was killed by SIGKILL, and the others were stopped")
    assert err.count("\n") == 1
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m"]
    process = sgdm_train("--resume", "run", cwd=tmp_path, program=torchrun)
    out, err = told(process)
    assert process.returncode == 0, err
    assert out.count("epoch 8:") == out.count("after 8 epochs") == 1
    assert out.splitlines()[-4:] == [
        f"run/{name}" for name in ("curves.png", "metrics.csv", "checkpoint", "config.json")
    ]
    one, other = tmp_path / "whole", tmp_path / "run"
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    assert_same(saved_in(one, settings), saved_in(other, settings))


def train_whole(world: World, settings: Settings, path: Path) -> None:
    train(settings, path, world=world)


@IS_LINUX
def test_ctrl_c_saves_and_says_how_several_go_on(tmp_path):
    process = sgdm_train(*LONG[:-4], "--epochs", "3000", "--nproc", "2", "--shard", cwd=tmp_path)
    run = tmp_path / "runs/digits-linear-torch"
    wait_for((run / "checkpoint").exists)
    workers = children_of(process)
    for second in (["--resume", str(run)], ["--out", str(run), "--overwrite", "--nproc", "2"]):
        another = sgdm_train(*second, cwd=tmp_path)
        assert told(another) == (
            "",
            f"sgdm: {second[0][2:]} must be a folder that no other run is at work in, got '{run}'; "
            f"process {workers[0]} is: wait for it, stop it, or name another one\n",
        )
        assert another.returncode == 2
    process.send_signal(signal.SIGINT)
    _, err = told(process)
    assert process.returncode == 130
    assert re.fullmatch(
        r"sgdm: interrupted after \d+ of 45000 steps; "
        r"go on with: sgdm train --resume runs/digits-linear-torch --nproc 2 --shard\n",
        err,
    )
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert RunFolder(run).is_saved_by_several()


def test_a_diverged_run_of_several_is_one_line_and_status_3(tmp_path):
    """Its processes are started as it was: with Python's -P no file here is taken for a module."""
    (tmp_path / "random.py").write_text("raise SystemExit('mine was run')")
    arguments = ["--model", "mlp", "--lr", "1e4", "--nproc", "2", "--out", "run"]
    process = sgdm_train(*arguments, cwd=tmp_path, program=[sys.executable, "-P", "-m"])
    out, err = told(process)
    assert (process.returncode, out) == (3, "")
    assert re.fullmatch(r"sgdm: the loss is (nan|inf) at step \d+ of 900; .* is in run\n", err)


def test_the_first_of_several_draws_live(tmp_path):
    arguments = ["--model", "linear", "--epochs", "2", "--nproc", "2", "--out", "run", "--live"]
    status, text = shown_in_terminal(*arguments, cwd=tmp_path)
    assert status == 0, text
    assert "90/90" in text
    assert re.search("[\u2801-\u28ff]", text)
    assert text.count("after 2 epochs") == 1
