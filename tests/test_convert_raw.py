"""Copies of files in which some ranges are replaced."""

import io
import os
from functools import partial

import pytest
import torch

from sgdm.convert.checkpoint import Stored
from sgdm.convert.raw import Patch, in_order, read_tensor, write_patched, write_tensor
from sgdm.errors import FileError


def patch(start, end, new):
    return Patch(start, end, lambda file: file.write(new))


def patched(path, patches, **options):
    target = io.BytesIO()
    with path.open("rb") as source:
        write_patched(target, source, path, patches, **options)
    return target.getvalue()


def test_ranges_are_replaced_by_longer_and_shorter_ones(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    assert patched(path, []) == b"0123456789"
    changes = [patch(8, 9, b""), patch(0, 2, b"abc"), patch(4, 4, b"-"), patch(2, 3, b"d")]
    assert patched(path, changes) == b"abcd3-45679"
    assert patched(path, [patch(4, 5, b"--")], within=(3, 6)) == b"3--5"


def test_ranges_that_overlap_are_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    changes = [patch(4, 6, b""), patch(0, 5, b"")]
    for refused in (in_order, patched):
        with pytest.raises(FileError) as error:
            refused(path, changes)
        assert str(error.value) == (
            f"{path}: byte 4: two of its tensors overlap; take an intact copy"
        )


def test_a_file_that_shrinks_while_it_is_copied_is_refused(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(2**20))
    shrink = Patch(10, 20, lambda _: os.truncate(path, 2**19))
    with pytest.raises(FileError, match="byte 524288: it has become shorter; take an intact copy"):
        patched(path, [shrink])


def test_a_tensor_is_written_and_read_from_where_its_parts_lie(tmp_path):
    path, x = tmp_path / "x", torch.arange(6.0).reshape(2, 3)
    with path.open("wb") as file:
        write_tensor("x", Stored((2, 3), x.dtype, lambda: x), file)
        file.write(b"between")
    with path.open("rb") as file:
        read = partial(read_tensor, file, path)
        assert torch.equal(read([(0, 24)], (2, 3), torch.float32), x)
        halves = read([(12, 24), (0, 12)], (6,), torch.float32)
        assert torch.equal(halves, x.flatten().roll(3))
        assert read([(0, 0)], (0, 2), torch.float32).shape == (0, 2)
        with pytest.raises(FileError, match="byte 24: it has become shorter"):
            read([(24, 36)], (3,), torch.float32)
