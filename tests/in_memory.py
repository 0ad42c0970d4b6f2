"""Tensors in memory, as a checkpoint has them."""

from copy import deepcopy
from functools import partial

from sgdm.convert.checkpoint import Slot, Stored


def stored(tensor):
    """Each read gives another copy, which has the strides of the tensor."""
    return Stored(tuple(tensor.shape), tensor.dtype, partial(deepcopy, tensor.detach()))


def slot(name, parameter=None, buffer=None, **other):
    return Slot(
        name=name,
        parameter=None if parameter is None else stored(parameter),
        buffer=None if buffer is None else stored(buffer),
        **other,
    )
