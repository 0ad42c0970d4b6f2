"""The data of the training job: digits, files of one's own, and what can be wrong with them."""

import io
import os
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from sgdm.errors import (
    FileError,
    InvalidValueError,
    MissingExtraError,
)
from sgdm.training.data import load_data


def save_npz(path: Path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_digits():
    data = load_data("digits", seed=0)
    assert data.train_x.shape == (1437, 1, 8, 8)
    assert data.test_x.shape == (360, 1, 8, 8)
    assert data.train_x.dtype == torch.float32
    assert abs(data.train_x.mean().item()) < 1e-6
    assert abs(data.train_x.std(correction=0).item() - 1) < 1e-6
    assert data.classes == 10
    counts = torch.bincount(data.test_y)
    assert counts.min() >= 34, "the split keeps the parts of the classes"


def test_the_seed_decides_the_split():
    prints = {load_data("digits", seed=seed).fingerprint for seed in (0, 0, 1)}
    assert len(prints) == 2


@pytest.mark.parametrize("shape", [(40, 5), (40, 6, 6), (40, 3, 6, 6)])
def test_a_file_of_ones_own(tmp_path, shape):
    rng = np.random.default_rng(0)
    labels = np.repeat([-7, 3, 100, 5], 10)  # any whole numbers are classes
    path = save_npz(tmp_path / "d.npz", x=rng.standard_normal(shape), y=labels)
    data = load_data(path, seed=0)
    assert data.classes == 4
    assert data.train_x.shape[1:] == ((1, 6, 6) if len(shape) == 3 else shape[1:])
    assert set(data.train_y.tolist()) == {0, 1, 2, 3}


GOOD_X, GOOD_Y = np.arange(40.0).reshape(20, 2), np.repeat([0, 1], 10)
BAD_DATA = [
    ({"x": GOOD_X}, "data must be a .npz with arrays x and y, got ['x']; rename its arrays"),
    ({"x": GOOD_X[:, 0], "y": GOOD_Y}, "x must be real numbers of shape (examples, features)"),
    ({"x": np.full((20, 2), "a"), "y": GOOD_Y}, "x must be real numbers of shape"),
    ({"x": GOOD_X.astype("timedelta64[s]"), "y": GOOD_Y}, "x must be real numbers of shape"),
    ({"x": GOOD_X, "y": GOOD_Y[:5]}, "y must be whole numbers of shape (20,), one for each"),
    ({"x": GOOD_X, "y": GOOD_Y * 1.0}, "y must be whole numbers of shape (20,)"),
    ({"x": GOOD_X * np.nan, "y": GOOD_Y}, "x must be finite, got 'NaN or infinity'; clean"),
    (
        {"x": GOOD_X.astype(np.longdouble) * np.longdouble("1e4000"), "y": GOOD_Y},
        "x must be finite",
    ),
    ({"x": GOOD_X * 1e300, "y": GOOD_Y}, "x must be of a standard deviation that float64 can hold"),
    ({"x": GOOD_X * 1j, "y": GOOD_Y}, "x must be real numbers of shape"),
    ({"x": GOOD_X, "y": GOOD_Y * 0}, "y must be of two classes or more"),
    ({"x": GOOD_X[:, :0], "y": GOOD_Y}, "y must be of two classes or more, with features in x"),
    (
        {"x": GOOD_X * 0, "y": GOOD_Y},
        "x must be of a standard deviation that float64 can hold, got 0.0; there",
    ),
    ({"x": GOOD_X, "y": np.arange(20)}, "y must be of two examples a class or more, and enough"),
    ({"x": GOOD_X[:0], "y": GOOD_Y[:0]}, "y must be of two classes or more"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD_DATA, ids=[m[:40] for _, m in BAD_DATA])
def test_bad_arrays_are_named(tmp_path, arrays, message):
    path = save_npz(tmp_path / "d.npz", **arrays)
    with pytest.raises(InvalidValueError) as caught:
        load_data(path, seed=0)
    assert str(caught.value).startswith(message)


def test_a_missing_file_is_named():
    with pytest.raises(FileError, match=r"data must be 'digits' or the path of a .npz file, got"):
        load_data("nowhere.npz", seed=0)


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


HUGE = npy().replace(b"(3,), }" + b" " * 12, b"(10000000000000,),}")


@pytest.mark.parametrize(
    "content",
    [b"", b"not an archive", b"PK\x03\x04 torn", npy(), zipped(x=HUGE, y=HUGE)],
    ids=["empty", "text", "torn", "npy", "terabytes"],
)
def test_a_file_that_is_no_npz_is_named(tmp_path, content):
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"cannot be read as a \.npz file"):
        load_data(str(path), seed=0)


def test_a_torn_npz_is_named(tmp_path):
    path = Path(save_npz(tmp_path / "d.npz", x=np.ones((500, 20)), y=np.repeat([0, 1], 250)))
    whole = path.read_bytes()
    for kept in range(0, len(whole), 3001):
        path.write_bytes(whole[:kept])
        with pytest.raises(FileError):
            load_data(str(path), seed=0)


def test_members_that_are_no_arrays_are_named(tmp_path):
    path = tmp_path / "d.npz"
    path.write_bytes(zipped(x=b"123", y=b"123"))
    with pytest.raises(InvalidValueError, match=r"data must be a \.npz with arrays x and y"):
        load_data(str(path), seed=0)


def test_flipped_bits_in_a_compressed_npz_are_named(tmp_path):
    path = tmp_path / "d.npz"
    np.savez_compressed(path, x=GOOD_X, y=GOOD_Y)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        with suppress(FileError, InvalidValueError):  # and nothing else
            load_data(str(path), seed=0)


def test_a_folder_in_the_place_of_the_data_is_named(tmp_path):
    with pytest.raises(FileError, match=r"cannot be read as a \.npz file .*Is a directory"):
        load_data(str(tmp_path), seed=0)


def test_the_fingerprint_is_of_the_test_part_too(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), np.repeat([0, 1], 20)
    one = load_data(save_npz(tmp_path / "a.npz", x=x, y=y), seed=0)
    raw = one.test_x[0] * x.std()  # find a test example by its values
    place = int(np.abs(x - x.mean() - raw.numpy()).sum(1).argmin())
    x[place, 0] += 1e-9
    other = load_data(save_npz(tmp_path / "b.npz", x=x, y=y), seed=0)
    assert one.fingerprint != other.fingerprint


def test_pickled_arrays_are_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "run"),))

    path = save_npz(tmp_path / "d.npz", x=np.array([Bomb()]), y=np.array([0]))
    with pytest.raises(FileError, match="cannot be read"):
        load_data(path, seed=0)
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(MissingExtraError, match=r"run: pip install 'sgdm\[train\]'"):
        load_data("digits", seed=0)
