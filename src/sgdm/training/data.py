"""The data of a run: scikit-learn's bundled digits, or a file of one's own, checked and split."""

import hashlib
import zipfile
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
    try:
        train_x, test_x, train_y, test_y = selection.train_test_split(
            x, y, test_size=_TEST_PART, random_state=seed % 2**32, stratify=y
        )
    except ValueError as error:
        raise InvalidValueError.of(
            "y",
            "at least five examples in all and two of each class, to keep a part for the test",
            f"{len(y)} examples of {classes} classes",
            "add examples",
        ) from error
    mean, deviation = float(train_x.mean()), float(train_x.std())
    if deviation == 0:
        raise InvalidValueError.of("x", "not constant", mean, "there is nothing to learn from it")

    def scaled(part: Any) -> Tensor:
        return torch.from_numpy(((part - mean) / deviation).astype(np.float32))

    return Dataset(
        train_x=scaled(train_x),
        train_y=torch.from_numpy(train_y),
        test_x=scaled(test_x),
        test_y=torch.from_numpy(test_y),
        classes=classes,
        fingerprint=hashlib.sha256(train_x.tobytes() + train_y.tobytes()).hexdigest()[:16],
    )


def _read(np: Any, source: str) -> tuple[Any, Any]:
    path = Path(source)
    if not path.is_file():
        raise FileError.of(
            "data", "'digits' or the path of a .npz file", source, "there is no such file"
        )
    try:
        # Pickled arrays would run what the file says: they are refused.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = set(arrays.files)
            if not {"x", "y"} <= names:
                raise InvalidValueError.of(
                    "data", "a .npz with arrays x and y", sorted(names), "rename its arrays"
                )
            return arrays["x"], arrays["y"]
    except InvalidValueError:
        raise
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise FileError(
            f"{source} cannot be read as a .npz file ({error}); "
            "write it with numpy.savez(path, x=..., y=...)"
        ) from error


def _checked(np: Any, source: str, x: Any, y: Any) -> tuple[Any, Any, int]:
    """Return x in float64 with a channel axis for images, y as class numbers, and their count."""
    if x.ndim not in (2, 3, 4) or not (np.issubdtype(x.dtype, np.number) or x.dtype == bool):
        raise InvalidValueError.of(
            "x",
            "numbers of shape (examples, features), (examples, height, width) or "
            "(examples, channels, height, width)",
            f"{x.dtype} of shape {x.shape}",
            f"reshape it in {source}",
        )
    if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise InvalidValueError.of(
            "y",
            f"whole numbers of shape {x.shape[:1]}, one for each example of x",
            f"{y.dtype} of shape {y.shape}",
            f"mend it in {source}",
        )
    if np.iscomplexobj(x) or not np.isfinite(x).all():
        raise InvalidValueError.of(
            "x", "real and finite", "NaN, infinity or complex numbers", f"clean {source}"
        )
    labels, classes = np.unique(y, return_inverse=True)
    if len(labels) < 2 or x[0].size == 0:
        raise InvalidValueError.of(
            "y",
            "of two classes or more, with features in x",
            f"{len(labels)} classes, x of shape {x.shape}",
            "there is nothing to learn from it",
        )
    x = x.astype(np.float64)
    return (x[:, None] if x.ndim == 3 else x), classes.astype(np.int64), len(labels)
