"""Msgpack as flax writes it: an index of a file, whose arrays are read when they are asked for.

An array is the extension of type 1 (a numpy scalar: 3): msgpack again, of (shape, name of the
dtype, bytes). One of more than 2**30 bytes is a map of several such pieces. Nothing in the file is
taken at its word: what claims more than the file has left is refused before anything is allocated,
and bytes of arrays are passed over until `read_array`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TypeAlias, cast

import torch
from torch import Tensor

from sgdm.convert.files.optax.tokens import Tokens
from sgdm.convert.raw import read_tensor

__all__ = ["Array", "Leaf", "Node", "index", "read_array"]

# Far above what a checkpoint has (a large network: a few thousand arrays), and what bounds memory
# and time on a file that consists of nothing but small things.
_MOST_NODES = 20_000
_DEEPEST = 64
_LONGEST_PATH = 1000
_MOST_AXES = 32

_NOT_FLAX = "give a file of flax.serialization.to_bytes"
_ARRAYS = {1, 3}

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.complex64, torch.complex128),
    )
}


@dataclass(frozen=True, slots=True)
class Leaf:
    """A number, a truth value or nothing; of anything else `value` is a word for what it is.

    Attributes:
        start: Its first byte in the file.
        end: The byte after its last.
        value: What it is.
    """

    start: int
    end: int
    value: float | str | None


@dataclass(frozen=True, slots=True)
class Array:
    """An array, and where its bytes are.

    Attributes:
        start: The first byte of all that makes it, in the file.
        end: The byte after the last.
        shape: As stored.
        dtype: As stored.
        pieces: Where its elements are: (first byte, number of bytes), in order.
    """

    start: int
    end: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[tuple[int, int], ...]


# A list is a map from "0", "1" and so on, as flax itself turns lists and tuples into maps.
Node: TypeAlias = "dict[str, Node] | Leaf | Array"


def index(path: Path, file: BufferedReader) -> dict[str, Node]:
    """Return what a file holds, without the arrays' elements.

    Args:
        path: For messages.
        file: Opened for reading.

    Raises:
        FileError: If it is not what flax writes.
    """
    tokens = Tokens(path, file)
    tree = _Scanner(tokens).node()
    if tokens.position != tokens.end:
        tokens.refuse(f"{tokens.end - tokens.position} bytes follow the end", _NOT_FLAX)
    if not isinstance(tree, dict):
        tokens.refuse("it is no map", _NOT_FLAX)
    return tree


def read_array(path: Path, file: BufferedReader, array: Array) -> Tensor:
    """Return an array's elements, as stored.

    Raises:
        FileError: If the file has become shorter.
    """
    parts = [(start, start + count) for start, count in array.pieces]
    return read_tensor(file, path, parts, array.shape, array.dtype)


class _Scanner:
    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._nodes = 0

    def node(self) -> Node:
        tokens = self._tokens
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            tokens.refuse(f"it has more than {_MOST_NODES} entries", _NOT_FLAX)
        start = tokens.position
        kind, value = tokens.head()
        if kind in {"map", "list"}:
            return self._unchunked(start, self._children(kind, cast("int", value)))
        if kind == "extension":
            return self._extension(start, cast("int", value))
        if kind in {"bytes", "text"}:
            tokens.pass_over(cast("int", value))
            return Leaf(start, tokens.position, kind)
        return Leaf(start, tokens.position, value)

    def _children(self, kind: str, count: int) -> dict[str, Node]:
        tokens = self._tokens
        children: dict[str, Node] = {}
        tokens.need(count)  # an entry has a byte at least
        if len(tokens.trail) >= _DEEPEST:
            tokens.refuse(f"maps lie in one another more than {_DEEPEST} deep", _NOT_FLAX)
        for number in range(count):
            key = self._key() if kind == "map" else str(number)
            if key in children:
                tokens.refuse(f"it has two entries {key!r}")
            tokens.trail.append(key)
            children[key] = self.node()
            tokens.trail.pop()
        return children

    def _key(self) -> str:
        tokens = self._tokens
        kind, value = tokens.head()
        if kind == "number" and isinstance(value, int):  # of a list in an NNX module
            return str(value)
        if kind != "text":
            tokens.refuse(f"a name should be here, and there is a {kind}")
        length = cast("int", value)
        if length + sum(map(len, tokens.trail)) > _LONGEST_PATH:
            tokens.refuse(f"a path is longer than {_LONGEST_PATH} characters", _NOT_FLAX)
        try:
            return tokens.take(length).decode()
        except UnicodeDecodeError:
            tokens.refuse("a name is not valid UTF-8")

    def _extension(self, start: int, length: int) -> Node:
        tokens = self._tokens
        code = tokens.take(1)[0]
        tokens.need(length)
        end = tokens.position + length
        if code in _ARRAYS and (array := self._array(start, end)) is not None:
            return array
        tokens.pass_over(end - tokens.position)
        what = "of a type that torch does not have" if code in _ARRAYS else "a complex number"
        return Leaf(start, end, what if code in {*_ARRAYS, 2} else f"an extension {code}")

    def _array(self, start: int, end: int) -> Array | None:
        """Return the array that ends there, or None if its type is not one of torch's."""
        tokens = self._tokens
        if tokens.size("list", what="an array") != 3:
            tokens.refuse("an array should be three things: shape, type and bytes")
        shape = tuple(self._shape())
        length = tokens.size("text", "bytes", what="the name of a type")
        if length > _LONGEST_PATH:
            tokens.refuse("the name of a type is too long")
        name = tokens.take(length).decode("utf-8", "replace")
        count = tokens.size("bytes", what="an array's elements")
        if tokens.position + count != end:
            tokens.refuse("an array's bytes do not end where the array does")
        if (dtype := _DTYPES.get(name)) is None:
            return None
        self._check_size(shape, dtype, count)
        place = tokens.position
        tokens.pass_over(count)
        return Array(start, end, shape, dtype, ((place, count),))

    def _shape(self) -> Iterator[int]:
        tokens = self._tokens
        axes = tokens.size("list", what="a shape")
        if axes > _MOST_AXES:
            tokens.refuse(f"a shape has more than {_MOST_AXES} sizes")
        for _ in range(axes):
            size = tokens.size("number", what="a size")
            if size < 0:
                tokens.refuse(f"a size is {size}")
            yield size

    def _check_size(self, shape: tuple[int, ...], dtype: torch.dtype, count: int) -> None:
        # Where one size is 0 the others still make strides, which torch holds in 64 bits.
        if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= 2**63:
            self._tokens.refuse(f"an array claims the shape {shape}")
        if math.prod(shape) * dtype.itemsize != count:
            self._tokens.refuse(f"an array of shape {shape} and {dtype} has {count} bytes")

    def _unchunked(self, start: int, children: dict[str, Node]) -> Node:
        """Return the array whose pieces a map holds, or the map."""
        if "__msgpack_chunked_array__" not in children:
            return children
        tokens = self._tokens
        shape = [
            size.value
            for size in self._in_order(children, "shape")
            if isinstance(size, Leaf) and type(size.value) is int and size.value >= 0
        ]
        pieces = [p for p in self._in_order(children, "chunks") if isinstance(p, Array)]
        whole = children.keys() == {"__msgpack_chunked_array__", "shape", "chunks"}
        claimed = sum(len(n) for n in children.values() if isinstance(n, dict))
        dtypes = {piece.dtype for piece in pieces}
        if not whole or len(shape) + len(pieces) != claimed or len(dtypes) != 1:
            tokens.refuse("an array in pieces should have a shape and arrays of one type")
        if len(shape) > _MOST_AXES:
            tokens.refuse(f"a shape has more than {_MOST_AXES} sizes")
        places = tuple(place for piece in pieces for place in piece.pieces)
        dtype = dtypes.pop()
        self._check_size(tuple(shape), dtype, sum(count for _, count in places))
        return Array(start, tokens.position, tuple(shape), dtype, places)

    def _in_order(self, children: dict[str, Node], name: str) -> Iterator[Node]:
        """Yield what an entry holds under "0", "1" and so on."""
        if isinstance(node := children.get(name), dict):
            for number in range(len(node)):
                if str(number) in node:
                    yield node[str(number)]
