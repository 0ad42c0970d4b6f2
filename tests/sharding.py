"""DTensors of tests: full tensors laid out over the processes, and put together again."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Layout(NamedTuple):
    mesh: DeviceMesh
    placements: tuple[Any, ...]


def layout_of(x: Tensor) -> Layout | None:
    return Layout(x.device_mesh, x.placements) if isinstance(x, DTensor) else None


def laid_out(full: Tensor, layout: Layout | None) -> Tensor:
    """The same on every process beforehand, so that nothing is sent."""
    copy = full.detach().clone()  # a replica would share its memory
    if layout is None:
        return copy
    return distribute_tensor(copy, layout.mesh, layout.placements, src_data_rank=None)


def full(x: Tensor) -> Tensor:
    return (x.full_tensor() if isinstance(x, DTensor) else x).detach()


def held(x: Tensor) -> Tensor:
    """What this process has of it."""
    return (x.to_local() if isinstance(x, DTensor) else x).detach()


def same_bits(x: Tensor, whole: Tensor) -> bool:
    """Whether what this process holds of x is what belongs there of the whole."""
    if x.shape != whole.shape or x.dtype != whole.dtype:
        return False
    a, b = held(x), held(laid_out(whole, layout_of(x)))
    integers = _INTEGERS[a.element_size()]
    return torch.equal(*(y.contiguous().view(integers) for y in (a, b)))
