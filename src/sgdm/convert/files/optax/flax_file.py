"""A file that flax.serialization has written, open for reading."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from torch import Tensor

from sgdm.convert.checkpoint import Stored, opened
from sgdm.convert.files.optax.reader import Array, index, read_array
from sgdm.convert.files.optax.train_state import Placed, find_train_state, leaves
from sgdm.convert.layout import Layout, shape_in_torch, to_torch

__all__ = ["FlaxFile", "layout_of", "open_flax"]


def layout_of(name: str) -> Layout:
    """Return how a parameter of that name lies in the file."""
    return "kernel" if name.rpartition("/")[2] == "kernel" else "torch"


class FlaxFile:
    """What a file holds, and its tensors when they are asked for.

    Attributes:
        path: Of the file.
        file: Open for reading.
        state: Where the parts of the training run are.
        parameters: By name; None where there are none.
    """

    def __init__(self, path: Path, file: BufferedReader, *, bare: bool) -> None:
        self.path = path
        self.file = file
        tree = index(path, file)
        self.state = find_train_state(path, tree)
        self.parameters = self.state.parameters
        if self.parameters is None and bare:
            self.parameters = leaves(path, tree, "")

    def stored(self, name: str, array: Array) -> Stored:
        """Return the tensor of a parameter, or of its trace, in torch's layout."""
        layout = layout_of(name)

        def load() -> Tensor:
            return to_torch(read_array(self.path, self.file, array), layout)

        return Stored(shape_in_torch(array.shape, layout), array.dtype, load)

    def number(self, placed: Placed) -> float | None:
        """Return the number at a place, or None if there is none."""
        node = placed.node
        if not isinstance(node, Array):
            return None if isinstance(node.value, bool | str) else node.value
        if math.prod(node.shape) != 1 or node.dtype.is_complex:
            return None
        return read_array(self.path, self.file, node).item()


@contextmanager
def open_flax(path: Path, *, bare: bool = False) -> Generator[FlaxFile]:
    """Open a file.

    Args:
        path: The file.
        bare: Whether one without "params" is taken for nothing but parameters.

    Raises:
        FileError: If it cannot be read, or is not what flax writes.
    """
    with opened(path, "a file of flax's") as file:
        yield FlaxFile(path, file, bare=bare)
