"""Tensors as arrays of numpy, and back; 16-bit types included."""

from importlib import import_module
from typing import Any

import torch

from sgdm.audit.subject import Refused

__all__ = ["Array", "array_of", "tensor_of"]

Array = Any  # of numpy, which only some subjects need


def array_of(tensor: torch.Tensor) -> Array:
    """Return a copy, so that nothing that becomes of it reaches the tensor.

    Raises:
        Refused: If numpy has nothing of the kind.
    """
    if tensor.layout is not torch.strided:
        raise Refused(f"only strided tensors can be handed over, not {tensor.layout}")
    copied = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    if copied.dtype is not torch.bfloat16:
        return copied.numpy()
    try:
        bfloat16 = import_module("ml_dtypes").bfloat16
    except ModuleNotFoundError as error:
        raise Refused("numpy has no bfloat16 where ml_dtypes is not installed") from error
    return copied.view(torch.int16).numpy().view(bfloat16)


def tensor_of(array: Array) -> torch.Tensor:
    """Return a tensor in the array's memory."""
    if array.dtype.name == "bfloat16":
        return torch.as_tensor(array.view("int16")).view(torch.bfloat16)
    return torch.as_tensor(array)
