"""One run at a time in a folder: who is refused, what a refusal leaves alone, who is not."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sgdm.errors import FileError
from sgdm.training import lock
from sgdm.training.comparison import compare
from sgdm.training.lock import locked
from sgdm.training.observer import Observer
from sgdm.training.run import resume, train
from sgdm.training.settings import Settings

QUICK = Settings(model="linear", epochs=2, batch_size=500)
REFUSED = "must be a folder that no other run is at work in, got"

HOLD = """
import os, subprocess, sys
from pathlib import Path
from sgdm.training.lock import locked
with locked(Path(sys.argv[1]), "out"):
    {within}
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(place: Path, within: str = "pass") -> Generator["subprocess.Popen[str]"]:
    """A process that holds the folder, until it is killed or the block is left."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(within=within), str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            process.stdin.close()


def is_refused(place: Path) -> bool:
    """Whether a run in another thread would be: to it, this one is as another process."""
    outcome: list[bool] = []

    def attempt() -> None:
        try:
            with locked(place, "out"):
                outcome.append(False)
        except FileError:
            outcome.append(True)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return outcome[0]


def held(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns)
        for file in folder.iterdir()
        if file.is_file()
    }


LAUNCHES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "fresh": ("out", lambda path: train(QUICK, path)),
    "overwriting": ("out", lambda path: train(QUICK, path, overwrite=True)),
    "resumed": ("resume", resume),
    "compared": ("out", lambda path: compare(QUICK, ["torch", "caffe"], path, overwrite=True)),
}


def test_a_second_launch_is_one_line_and_changes_nothing(tmp_path):
    path = tmp_path / "run"
    train(QUICK, path)
    before = held(path)
    with held_by_another(path) as process:
        beside = {file.name for file in tmp_path.iterdir()}
        for argument, launch in LAUNCHES.values():
            with pytest.raises(FileError) as caught:
                launch(path)
            assert str(caught.value) == (
                f"{argument} {REFUSED} '{path}'; process {process.pid} is: wait for it, stop it, "
                "or name another one"
            )
        assert held(path) == before
        assert {file.name for file in tmp_path.iterdir()} == beside == {"run", ".run.lock"}
    resume(path)
    assert {file.name for file in tmp_path.iterdir()} == {"run"}


@pytest.mark.parametrize("launch", ["fresh", "compared"])
def test_a_folder_that_is_about_to_be_made_is_taken(tmp_path, launch):
    with (
        held_by_another(tmp_path / "run"),
        pytest.raises(FileError, match=REFUSED),
    ):
        LAUNCHES[launch][1](tmp_path / "run")
    assert [file.name for file in tmp_path.iterdir()] == [".run.lock"]


@pytest.mark.parametrize("launch", LAUNCHES)
def test_what_a_killed_process_leaves_keeps_nobody_out(tmp_path, launch):
    path = tmp_path / "run"
    if launch != "fresh":
        train(QUICK, path)
    with held_by_another(path):
        pass
    assert (tmp_path / ".run.lock").exists()
    LAUNCHES[launch][1](path)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


CHILDREN = {
    "forked": "child = os.fork() or (sys.stdout.close(), __import__('time').sleep(600))",
    "started": "child = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL).pid",
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_child_of_the_killed_process_holds_nothing(tmp_path, kind):
    tell = f"{CHILDREN[kind]}; Path(sys.argv[1] + '-child').write_text(str(child))"
    with held_by_another(tmp_path / "run", within=tell):
        child = int((tmp_path / "run-child").read_text())
        assert is_refused(tmp_path / "run")
    try:
        assert not is_refused(tmp_path / "run")
    finally:
        os.kill(child, 9)  # it was there until now


def test_a_forked_child_that_leaves_the_block_releases_nothing(tmp_path):
    leave = "child = os.fork() or sys.exit(); assert os.waitpid(child, 0)[1] == 0"
    with held_by_another(tmp_path / "run", within=leave):
        assert is_refused(tmp_path / "run")


def test_the_thread_that_holds_a_folder_may_ask_again(tmp_path):
    with locked(tmp_path / "run", "out"):
        with locked(tmp_path / "run", "resume"):
            assert is_refused(tmp_path / "run")
        assert is_refused(tmp_path / "run")
        assert not is_refused(tmp_path / "another")
    assert not is_refused(tmp_path / "run")


class Asks(Observer):
    """Notes, at every event of a run, whether another one would be refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused: dict[str, set[bool]] = {}

    def _note(self, event: str) -> None:
        self.refused.setdefault(event, set()).add(is_refused(self.path))

    def resumed(self, metrics) -> None:
        self._note("resumed")

    def started(self, step, total) -> None:
        self._note("started")

    def stepped(self, batch) -> None:
        self._note("stepped")

    def finished_epoch(self, metrics) -> None:
        self._note("finished_epoch")

    def compared_epoch(self, epochs, compared) -> None:
        self._note("compared_epoch")


def test_a_run_holds_its_folder_from_the_beginning_to_the_end(tmp_path):
    path = tmp_path / "run"
    asks = Asks(path)
    train(QUICK, path, observer=asks)
    assert asks.refused == {"started": {True}, "stepped": {True}, "finished_epoch": {True}}
    train(QUICK, path, overwrite=True, observer=Asks(path))
    asks = Asks(path)
    resume(path, observer=asks)
    assert asks.refused == {"resumed": {True}, "started": {True}}
    asks = Asks(path)
    compare(QUICK, ["torch", "caffe"], path, overwrite=True, observer=asks)
    assert asks.refused == {"started": {True}, "stepped": {True}, "compared_epoch": {True}}
    assert not is_refused(path)


def test_a_link_to_the_folder_is_the_folder(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "run"
    link.symlink_to("disk/run")
    for _ in range(2):
        asks = Asks(tmp_path / "disk/run")
        train(QUICK, link, overwrite=True, observer=asks)
        assert set.union(*asks.refused.values()) == {True}
        assert link.is_symlink()
        assert sorted(tmp_path.rglob(".*")) == []
    assert len(resume(link)) == 2


def test_a_lock_file_that_its_last_holder_removes_meanwhile_is_none(tmp_path, monkeypatch):
    file, real, calls = tmp_path / ".run.lock", fcntl.flock, []

    def removed_before(descriptor: int, operation: int) -> None:
        if not calls:
            file.unlink()
        calls.append(descriptor)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    with locked(tmp_path / "run", "out"):
        assert len(calls) == 2
        assert file.read_text() == f"{os.getpid()}\n"
        monkeypatch.undo()
        assert is_refused(tmp_path / "run")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_it_goes_without(tmp_path, monkeypatch, number):
    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        train(QUICK, tmp_path / "run")
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_on_windows_it_goes_without(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.sys, "platform", "win32")
    with locked(tmp_path / "run", "out"):
        assert list(tmp_path.iterdir()) == []


def test_a_lock_that_fails_otherwise_is_told(tmp_path, monkeypatch):
    def fail(*_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(FileError, match=r"run cannot be written \(Input/output error\); choose"):
        train(QUICK, tmp_path / "run")


def test_a_run_whose_lock_cannot_be_written_is_not_resumed(tmp_path):
    train(QUICK, tmp_path / "run")
    (tmp_path / ".run.lock").mkdir()
    with pytest.raises(FileError, match=r"run cannot be locked \(Is a directory\); copy the run"):
        resume(tmp_path / "run")


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    mine = tmp_path / "thesis.tex"
    mine.write_text("years of work")
    (tmp_path / ".run.lock").symlink_to(mine)
    with pytest.raises(FileError, match="run cannot be written"):
        train(QUICK, tmp_path / "run")
    assert mine.read_text() == "years of work"


def test_folders_made_for_a_run_that_cannot_begin_are_removed(tmp_path):
    with pytest.raises(FileError, match="there is no such file"):
        train(Settings(data="none.npz"), tmp_path / "a/b/run")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileError, match="resume must be the folder of a run"):
        resume(tmp_path / "a/b/run")
    assert list(tmp_path.iterdir()) == []
