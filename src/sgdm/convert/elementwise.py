"""Arithmetic on large tensors: computed in float64, a piece at a time, and rounded once."""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from sgdm.shards import as_whole, is_whole, shard_of

__all__ = ["in_chunks", "norm"]

_CHUNK = 1 << 20  # elements


def in_chunks(
    f: Callable[..., Tensor], first: Tensor, second: Tensor | None, out: Tensor | None
) -> Tensor:
    """Return f of two tensors, elementwise, without a float64 copy of the whole.

    Of DTensors, which lie alike, each process does so with its shards.
    """
    if is_whole(first):
        shards = (None if x is None else shard_of(x) for x in (second, out))
        result = in_chunks(f, shard_of(first), *shards)
        if out is None:
            return as_whole(result, first)
        increment_version(out)
        return out
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
