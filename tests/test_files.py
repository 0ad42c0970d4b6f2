"""Files are written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from sgdm.errors import FileError
from sgdm.files import append_line, check_place, unfinished, write_atomically, write_together


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "x"
    for content in (b"first", b"second"):
        write_atomically(path, lambda file, content=content: file.write(content))
        assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_a_failure_while_writing_leaves_what_was_there(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_one_line(tmp_path, wrapped):
    """Also where a library between has turned the error into its own, as torch.save does."""
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fail(file):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if wrapped:
            raise RuntimeError("unexpected pos 64 vs 0") from full
        raise full

    with pytest.raises(FileError) as caught:
        write_atomically(path, fail)
    assert str(caught.value) == (
        f"{path} cannot be written (No space left on device); make room or choose another place"
    )
    assert path.read_bytes() == b"old"


def test_a_place_that_is_not_there_is_named(tmp_path):
    for write in (
        lambda path: write_atomically(path, lambda file: file.write(b"")),
        lambda path: append_line(path, "x"),
    ):
        with pytest.raises(FileError, match=r"cannot be written \(No such file or directory\)"):
            write(tmp_path / "missing" / "x")


def test_lines_are_added(tmp_path):
    append_line(tmp_path / "x", "a")
    append_line(tmp_path / "x", "b")
    assert (tmp_path / "x").read_bytes() == b"a\nb\n"


def test_what_is_no_place_for_a_file_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for refuse in (
        check_place,
        lambda place: write_atomically(place, lambda file: file.write(b"")),
    ):
        for place in (tmp_path / "folder", tmp_path / "pipe", Path(), Path("/"), Path("..")):
            with pytest.raises(FileError, match=r"cannot be written \(it is no regular file\)"):
                refuse(place)
        with pytest.raises(FileError, match=r"'a\\x00b' cannot be written \(it is no path\)"):
            refuse(Path("a\0b"))
    check_place(tmp_path / "missing" / "x")
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_symbolic_link_points_at_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    pointed_at, link = tmp_path / "folder" / "x", tmp_path / "link"
    link.symlink_to(pointed_at)
    for content in (b"made", b"replaced"):
        write_atomically(link, lambda file, content=content: file.write(content))
        assert link.is_symlink()
        assert pointed_at.read_bytes() == content
    assert [file.name for file in pointed_at.parent.iterdir()] == ["x"]


def test_the_file_beside_is_a_new_one_under_a_name_of_its_own(tmp_path):
    """Not one that somebody else put there, to be written through."""
    path, names = tmp_path / "x", set[str]()
    for _ in range(2):
        write_atomically(path, lambda file: names.add(Path(file.name).name))
    assert len(names) == 2
    (left,) = (tmp_path / name for name in list(names)[:1])
    left.touch()
    assert unfinished(path) == [left]
    assert unfinished(tmp_path / "y") == []


def test_files_that_belong_together_are_all_replaced_or_none(tmp_path):
    first, second, folder = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    folder.mkdir()

    def fail(file):
        raise KeyError("mine")

    first.write_bytes(b"old")
    for path, write, expected in (
        (second, fail, KeyError),
        (folder, lambda file: file.write(b"new"), FileError),
        (tmp_path / "missing" / "x", lambda file: file.write(b"new"), FileError),
    ):
        with pytest.raises(expected):
            write_together([(first, lambda file: file.write(b"new")), (path, write)])
        assert first.read_bytes() == b"old"
        assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "c"]
    write_together([(path, lambda file: file.write(b"new")) for path in (first, second)])
    assert first.read_bytes() == second.read_bytes() == b"new"


def test_an_error_of_the_file_that_is_read_is_not_one_of_the_disk(tmp_path):
    def fail(file):
        raise FileError("the source is broken") from OSError(errno.EIO, "Input/output error")

    with pytest.raises(FileError, match="the source is broken"):
        write_atomically(tmp_path / "x", fail)
