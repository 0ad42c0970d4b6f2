"""Arithmetic on large tensors: computed in float64, a piece at a time, and rounded once."""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

__all__ = ["in_chunks", "norm"]

_CHUNK = 1 << 20  # elements


def in_chunks(
    f: Callable[..., Tensor], first: Tensor, second: Tensor | None, out: Tensor | None
) -> Tensor:
    """Return f of two tensors, elementwise, without a float64 copy of the whole."""
    if out is None:
        out = torch.empty_like(first, memory_format=torch.contiguous_format)
    flat, one = out.view(-1), first.reshape(-1)
    other = None if second is None else second.reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        part = slice(start, start + _CHUNK)
        wide = (x if x is None else _widened(x[part]) for x in (one, other))
        flat[part] = f(*wide).to(flat.dtype)
    return out.view(first.shape)


def norm(x: Tensor) -> float:
    """Return the norm of a tensor, without a wider copy of the whole."""
    flat = x.reshape(-1)
    parts = (flat[start : start + _CHUNK] for start in range(0, flat.numel(), _CHUNK))
    # Numbers and not tensors: these would lie between the chunks, whose places could not be reused.
    return math.hypot(*(_norm(_widened(part)) for part in parts))


def _norm(x: Tensor) -> float:
    return cast("float", torch.linalg.vector_norm(x).item())


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float64))
