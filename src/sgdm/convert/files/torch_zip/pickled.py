"""torch's pickles: tensors become `View`s, which say where in the archive their data lies.

What else is no plain data, such as an `argparse.Namespace` among a checkpoint's settings, becomes
`Inert` and is left alone, where `torch.load(weights_only=True)` refuses the whole file.
"""

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

import torch
from torch._utils import (  # the format's name for a tensor
    _rebuild_tensor_v2,  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
)

from sgdm.convert.inert_pickle import Inert, interpret

__all__ = ["DTYPES", "View", "as_pickle", "from_pickle"]

_MOST_AXES = 64  # torch's own limit


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: torch.dtype
    key: str
    elements: int


@dataclass(frozen=True, slots=True)
class View:
    """A tensor in a storage, counted in elements, as torch has it.

    Attributes:
        key: The storage's.
        dtype: Of both.
        elements: Of the storage.
        offset: Of the first element.
        shape: Of the tensor.
        stride: Of each axis.
    """

    key: str
    dtype: torch.dtype
    elements: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def from_pickle(data: bytes, size: int) -> Any:
    """Return what a pickle holds: plain data, `View` and `Inert`.

    Args:
        data: The pickle.
        size: Of the file that it is in, which bears out how much it may hold.

    Raises:
        Exception: Of any kind, if it is not a pickle as torch writes them.
    """
    return interpret(BytesIO(data), _find_class, persistent_load=_storage, size=size)


def as_pickle(content: object) -> bytes:
    """Return the pickle that torch.save writes of this, where a `View` stands for a tensor."""
    file = BytesIO()
    _Pickler(file, protocol=2).dump(content)
    return file.getvalue()


_STORAGES = {
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.float32: torch.FloatStorage,
    torch.float64: torch.DoubleStorage,
    torch.complex64: torch.ComplexFloatStorage,
    torch.complex128: torch.ComplexDoubleStorage,
    torch.uint8: torch.ByteStorage,
    torch.int8: torch.CharStorage,
    torch.int16: torch.ShortStorage,
    torch.int32: torch.IntStorage,
    torch.int64: torch.LongStorage,
    torch.bool: torch.BoolStorage,
}


DTYPES = tuple(_STORAGES)


def _storage(identity: Any) -> _Storage | Inert:
    """What torch's persistent id stands for; the device in it does not matter here."""
    if not isinstance(identity, tuple):
        raise TypeError("a persistent id that is no tuple")
    kind, dtype, key, _device, elements = cast("tuple[Any, ...]", identity)
    if isinstance(dtype, Inert):
        return dtype
    if kind != "storage" or not isinstance(key, str) or not isinstance(dtype, torch.dtype):
        raise TypeError("a storage of an unknown kind")
    if type(elements) is not int or elements < 0:
        raise TypeError("a storage whose size is no count")
    return _Storage(dtype, key, elements)


def _tensor(args: tuple[Any, ...]) -> View | Inert:
    storage, offset, shape, stride = args[:4]
    if not isinstance(storage, _Storage) or (len(args) > 6 and args[6]):
        return Inert("a tensor of a special kind")
    if type(shape) is not tuple or type(stride) is not tuple:
        raise TypeError("a tensor whose shape or stride is no tuple")
    counts = cast("tuple[Any, ...]", shape), cast("tuple[Any, ...]", stride)
    if len(counts[0]) != len(counts[1]) or len(counts[0]) > _MOST_AXES:
        raise ValueError("a tensor whose shape and stride are of impossible length")
    for number in (offset, *counts[0], *counts[1]):
        if type(number) is not int or number < 0:
            raise ValueError("a tensor with an offset, shape or stride that is no count")
    return View(storage.key, storage.dtype, storage.elements, offset, *counts)


def _from_type(args: tuple[Any, ...]) -> Any:
    """A parameter or tensor with attributes of its own: the tensor."""
    rebuild, _, its_args, _ = args
    return rebuild(its_args) if callable(rebuild) else Inert("a tensor of a special kind")


def _mapping(args: tuple[Any, ...]) -> Any:
    del args  # a default's factory
    return {}


def _first(args: tuple[Any, ...]) -> Any:
    return args[0]


# What a pickle may name: dtypes, and functions of this module in the place of torch's.
_KNOWN: dict[str, Any] = {
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _first,
    "torch._utils _rebuild_parameter_with_state": _first,
    "torch._tensor _rebuild_from_type_v2": _from_type,
    "torch Size": _first,
    "collections OrderedDict": _mapping,
    "collections defaultdict": _mapping,
    **{f"torch {storage.__name__}": dtype for dtype, storage in _STORAGES.items()},
    **{f"torch {str(dtype).removeprefix('torch.')}": dtype for dtype in _STORAGES},
}


def _find_class(name: str) -> Any:
    return _KNOWN.get(name, Inert(name.replace(" ", ".")))


class _Pickler(pickle.Pickler):
    """Writes a `View` as torch writes the tensor, and `_Storage` by its name in the archive."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _Storage):
            return ("storage", _STORAGES[obj.dtype], obj.key, "cpu", obj.elements)
        return None

    def reducer_override(self, obj: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if isinstance(obj, View):
            storage = _Storage(obj.dtype, obj.key, obj.elements)
            no_hooks: OrderedDict[str, Any] = OrderedDict()
            args = (storage, obj.offset, obj.shape, obj.stride, False, no_hooks)
            return _rebuild_tensor_v2, args
        return NotImplemented
