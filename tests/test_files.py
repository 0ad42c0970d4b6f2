"""Files are written whole or not at all."""

import errno
import os

import pytest

from sgdm.errors import FileError
from sgdm.files import append_line, write_atomically


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
