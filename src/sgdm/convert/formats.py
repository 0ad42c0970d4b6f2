"""The formats by name, each with the convention of its buffers."""

from importlib import import_module
from types import ModuleType
from typing import NamedTuple

from sgdm.errors import InvalidValueError

__all__ = ["FORMATS", "Format", "get_format"]


class Format(NamedTuple):
    """A checkpoint format.

    Attributes:
        module: Where `read` and `prepare` are, below `sgdm.convert.files`.
        convention: Whose buffers its files hold; None where the file says, and any may be written.
        needs_template: Whether a file can only be written after another of the same model.
        holds_own: Whether it holds hyperparameters of single parameters.
        suffixes: What the names of its files end in.
    """

    module: str
    convention: str | None
    needs_template: bool = False
    holds_own: bool = False
    suffixes: tuple[str, ...] = ()

    def load(self) -> ModuleType:
        """Import the module."""
        return import_module(f"sgdm.convert.files.{self.module}")


FORMATS = {
    "torch": Format("torch_zip", None, holds_own=True, suffixes=(".pt", ".pth", ".ckpt")),
    "safetensors": Format("safetensors_file", None, holds_own=True, suffixes=(".safetensors",)),
    "keras": Format("keras", "keras3", needs_template=True, suffixes=(".keras", ".weights.h5")),
    "caffe": Format(
        "caffe",
        "caffe",
        suffixes=(".solverstate", ".caffemodel", ".solverstate.h5", ".caffemodel.h5"),
    ),
    "optax": Format("optax", "optax", suffixes=(".msgpack",)),
    "sklearn": Format("sklearn", "sklearn", needs_template=True, suffixes=(".pkl", ".pickle")),
}


def get_format(name: str) -> Format:
    """Return the format of that name.

    Raises:
        InvalidValueError: If there is none.
    """
    found = FORMATS.get(name)
    if found is None:
        raise InvalidValueError.of("format", f"one of {', '.join(FORMATS)}", name, "choose one")
    return found
