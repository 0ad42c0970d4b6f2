"""Arrays and numbers of numpy among the records of a pickle."""

import math
import struct
from dataclasses import dataclass
from typing import Any, cast

import torch

from sgdm.convert.files.sklearn.records import Block
from sgdm.convert.inert_pickle import Inert
from sgdm.convert.not_understood import NotUnderstood

__all__ = ["Array", "array_of", "number_of"]

_MOST_AXES = 32
_LONGEST = 2**40  # beyond any file, and far from what torch cannot multiply
_DTYPES = {"f4": torch.float32, "f8": torch.float64}
_NUMBERS = {"f4": "<f", "f8": "<d", "i8": "<q", "i4": "<i", "b1": "<?"}


@dataclass(frozen=True, slots=True)
class Array:
    """An array of numpy.

    Attributes:
        shape: Its shape.
        dtype: Of its elements.
        block: Its elements.
        columns_first: Whether they lie in Fortran's order.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    block: Block
    columns_first: bool


def array_of(value: Any) -> Array:
    """Return the array of floating-point numbers that a record is.

    Raises:
        NotUnderstood: If it is another thing.
    """
    function, args, state = _parts(value)
    if function.endswith("multiarray _reconstruct") and len(state) == 5:
        _, shape, dtype, columns_first, block = state
    elif function.endswith("numeric _frombuffer") and len(args) == 4:
        block, dtype, shape, order = args
        columns_first = order == "F"
    else:
        raise NotUnderstood(f"it is {_kind(value)}, no array")
    code = _code(dtype)
    if code not in _DTYPES:
        problem = f"its numbers are {code or 'of another kind'}, neither float32 nor float64"
        raise NotUnderstood(problem, "fit the estimator with float32 or float64 data")
    if not isinstance(block, Block):
        raise NotUnderstood("its data is no bytes")
    if not isinstance(shape, tuple):
        raise NotUnderstood("its shape is no tuple")
    counts = cast("tuple[Any, ...]", shape)
    if len(counts) > _MOST_AXES or any(type(n) is not int or not 0 <= n < _LONGEST for n in counts):
        raise NotUnderstood("its shape is no tuple of possible counts")
    if math.prod(counts) * int(code[1]) != block.size:
        raise NotUnderstood(f"its shape {counts} does not fit the {block.size} bytes it has")
    return Array(counts, _DTYPES[code], block, bool(columns_first) and len(counts) > 1)


def number_of(value: Any) -> Any:
    """Return a number, which numpy's scalars are too; anything else as it is."""
    if not isinstance(value, Inert):
        return value
    function, args, _ = _parts(value)
    if not function.endswith("multiarray scalar") or len(args) != 2:
        return value
    code, block = _code(args[0]), args[1]
    if code not in _NUMBERS or not isinstance(block, Block) or block.size != int(code[1]):
        return value
    return struct.unpack(_NUMBERS[code], block.head)[0]


def _parts(value: Any) -> tuple[str, tuple[Any, ...], tuple[Any, ...]]:
    """Return the name of a record, its arguments and its state, the latter if it is a tuple."""
    if not isinstance(value, Inert) or value.args is None or not value.name.startswith("numpy"):
        return "", (), ()
    state = cast("tuple[Any, ...]", value.state) if isinstance(value.state, tuple) else ()
    return value.name, value.args, state


def _code(dtype: Any) -> str:
    """Return the code of a little-endian type of numpy's, such as "f4"; "" for another."""
    name, args, state = _parts(dtype)
    if name != "numpy dtype" or not args or not isinstance(args[0], str):
        return ""
    little = len(state) > 1 and state[1] in ("<", "|")
    return args[0] if little and len(args[0]) == 2 else ""


def _kind(value: Any) -> str:
    """Name a value for a message, without showing what a file made of it."""
    return f"a {value.name[:100]}" if isinstance(value, Inert) else f"a {type(value).__name__}"
