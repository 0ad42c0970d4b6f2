"""The data of a run: scikit-learn's bundled digits, or a file of one's own, checked and split."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgdm.errors import FileError, InvalidValueError
from sgdm.extras import load_extra

__all__ = ["Dataset", "load_data"]

_TEST_PART = 0.2


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples for classification, split into two.

    Attributes:
        train_x: float32, (examples, features) or (examples, channels, height, width), scaled by
            the mean and standard deviation of the training part.
        train_y: int64, class numbers from 0.
        test_x: As train_x.
        test_y: As train_y.
        classes: How many classes there are.
        fingerprint: Of the data and the split; a resumed run must find the same.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    fingerprint: str


def load_data(source: str, *, seed: int) -> Dataset:
    """Load, check and split the data; a fifth of each class is kept for the test.

    Args:
        source: "digits", or the path of a `.npz` file with `x` (examples first; features, images
            or images with channels) and `y` (whole numbers).
        seed: Decides the split.

    Raises:
        FileError: If the file is missing or no `.npz`.
        InvalidValueError: If its arrays do not fit each other, are not finite, or leave nothing to
            learn.
        MissingExtraError: If scikit-learn is not installed.
    """
    np = load_extra("numpy", extra="train")
    selection = load_extra("sklearn.model_selection", extra="train")
    if source == "digits":
        bunch = load_extra("sklearn.datasets", extra="train").load_digits()
        x, y = bunch.images, bunch.target
    else:
        x, y = _read(np, source)
    x, y, classes = _checked(np, source, x, y)
    held_out = math.ceil(_TEST_PART * len(y))
    if np.bincount(y).min() < 2 or held_out < classes or len(y) - held_out < classes:
        raise InvalidValueError.of(
            "y",
            "of two examples a class or more, and enough to have each in the test's fifth",
            f"{len(y)} examples of {classes} classes",
            "add examples",
        )
    train_x, test_x, train_y, test_y = selection.train_test_split(
        x, y, test_size=_TEST_PART, random_state=seed % 2**32, stratify=y
    )
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = float(train_x.mean()), float(train_x.std())
    if not 0 < deviation < math.inf:
        raise InvalidValueError.of(
            "x",
            "of a standard deviation that float64 can hold",
            deviation,
            "there is nothing to learn from a constant; scale what is too large",
        )

    def scaled(part: Any) -> Tensor:
        return torch.from_numpy(((part - mean) / deviation).astype(np.float32))

    return Dataset(
        train_x=scaled(train_x),
        train_y=torch.from_numpy(train_y),
        test_x=scaled(test_x),
        test_y=torch.from_numpy(test_y),
        classes=classes,
        fingerprint=_fingerprint(np, train_x, train_y, test_x, test_y),
    )


def _fingerprint(np: Any, *arrays: Any) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def _read(np: Any, source: str) -> tuple[Any, Any]:
    path = Path(source)
    try:
        # Pickled arrays would run what the file says: they are refused.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = set(arrays.files)
            if {"x", "y"} <= names:
                x, y = arrays["x"], arrays["y"]
                if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
                    return x, y
    except FileNotFoundError as error:
        raise FileError.of(
            "data", "'digits' or the path of a .npz file", source, "there is no such file"
        ) from error
    except Exception as error:  # numpy and zipfile raise what the damaged bytes lead them to
        reason = str(error) or type(error).__name__
        raise FileError(
            f"{source} cannot be read as a .npz file ({reason}); "
            "write it with numpy.savez(path, x=..., y=...)"
        ) from error
    raise InvalidValueError.of(
        "data", "a .npz with arrays x and y", sorted(names), "rename its arrays"
    )


def _checked(np: Any, source: str, x: Any, y: Any) -> tuple[Any, Any, int]:
    """Return x in float64 with a channel axis for images, y as class numbers, and their count."""
    if x.ndim not in (2, 3, 4) or x.dtype.kind not in "buif":
        raise InvalidValueError.of(
            "x",
            "real numbers of shape (examples, features), (examples, height, width) or "
            "(examples, channels, height, width)",
            f"{x.dtype} of shape {x.shape}",
            f"reshape it in {source}",
        )
    if y.shape != x.shape[:1] or y.dtype.kind not in "bui":
        raise InvalidValueError.of(
            "y",
            f"whole numbers of shape {x.shape[:1]}, one for each example of x",
            f"{y.dtype} of shape {y.shape}",
            f"mend it in {source}",
        )
    with np.errstate(over="ignore"):
        x = x.astype(np.float64)
    if not np.isfinite(x).all():
        raise InvalidValueError.of("x", "finite", "NaN or infinity", f"clean {source}")
    labels, classes = np.unique(y, return_inverse=True)
    if len(labels) < 2 or x[0].size == 0:
        raise InvalidValueError.of(
            "y",
            "of two classes or more, with features in x",
            f"{len(labels)} classes, x of shape {x.shape}",
            "there is nothing to learn from it",
        )
    return (x[:, None] if x.ndim == 3 else x), classes.astype(np.int64), len(labels)
