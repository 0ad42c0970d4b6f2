"""Between tensors and the bytes of a file, without a copy."""

import ctypes
import math
from io import BufferedIOBase

import torch
from torch import Tensor

from sgdm.convert.checkpoint import Stored

__all__ = ["read_into", "size_in_bytes", "tensor_of", "view_of"]

_CHUNK = 1 << 24


def size_in_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return how many bytes a contiguous tensor takes."""
    return math.prod(shape) * dtype.itemsize


def tensor_of(data: bytearray, dtype: torch.dtype) -> Tensor:
    """Return a tensor of one axis that owns these bytes."""
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def view_of(name: str, stored: Stored) -> tuple[memoryview, Tensor]:
    """Return the bytes of a tensor, and the tensor, which has to live as long as they are used.

    Raises:
        ValueError: If it is not what was announced, and so what the file already says of it.
    """
    tensor = stored.read().detach()
    if tuple(tensor.shape) != stored.shape or tensor.dtype != stored.dtype:
        raise ValueError(
            f"{name} must be {stored.dtype} of shape {stored.shape}, as announced, got "
            f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    tensor = tensor.resolve_conj().resolve_neg().contiguous()
    size = size_in_bytes(stored.shape, stored.dtype)
    # Without numpy, which torch does not require, only the address leads to a tensor's bytes.
    array = (ctypes.c_ubyte * size).from_address(tensor.data_ptr()) if size else bytearray()
    return memoryview(array).cast("B"), tensor


def read_into(file: BufferedIOBase, view: memoryview) -> bool:
    """Fill a view from where the file stands; return whether the file was long enough."""
    done = 0
    while done < len(view):
        got = file.readinto(view[done : done + _CHUNK])
        if not got:
            return False
        done += got
    return True
