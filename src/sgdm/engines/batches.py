"""Which tensors torch steps together: plain ones of a kind, where its operations take many."""

from collections import defaultdict
from collections.abc import Hashable

import torch
from torch import Tensor

from sgdm.engines import _native
from sgdm.engines.plan import Memory, Part

__all__ = ["alike", "keys_of"]

# Where torch has kernels for many tensors. Elsewhere it takes them one by one, and so does the
# engine: what it computes on the way is then of one tensor, and stays in the cache.
_TOGETHER = frozenset(("cuda", "xpu"))
# Bytes of parameters. What is computed on the way takes up to 14 times as much, in bfloat16.
_BATCH = 1 << 24


def keys_of(part: Part, memory: Memory) -> list[Hashable] | None:
    """Return keys that are the same for tensors which can be stepped together.

    Args:
        part: The tensors.
        memory: Of earlier steps.

    Returns:
        A key for each tensor; None where every one goes alone.
    """
    updates = list(part.updates())
    listed = [_may_be_listed(update.param, update.gradient) for update in updates]
    chosen = [update for update, may in zip(updates, listed, strict=True) if may]
    written = [x for p, _, b, a in chosen for x in (p, b, a) if x is not None]
    if not _are_plain(written, [update.gradient for update in chosen], memory):
        return None
    filled: defaultdict[Hashable, int] = defaultdict(int)
    keys: list[Hashable] = []
    for i, (update, may) in enumerate(zip(updates, listed, strict=True)):
        kind = (update.param.device, *(None if x is None else x.dtype for x in update))
        filled[kind] += update.param.nbytes
        keys.append((kind, filled[kind] // _BATCH) if may else i)
    return keys


def alike(tensors: list[Tensor], memory: Memory) -> list[list[int]]:
    """Return the places of tensors that can be measured together, in all every place once.

    Args:
        tensors: What is read.
        memory: Of earlier steps.
    """
    listed = list(map(_may_be_listed, tensors))
    chosen = [x for x, may in zip(tensors, listed, strict=True) if may]
    if not _are_plain([], chosen, memory):
        return [[i] for i in range(len(tensors))]
    places: defaultdict[Hashable, list[int]] = defaultdict(list)
    for i, (x, may) in enumerate(zip(tensors, listed, strict=True)):
        places[(x.device, x.dtype) if may else i].append(i)
    return list(places.values())


def _may_be_listed(*tensors: Tensor) -> bool:
    return all(x.device.type in _TOGETHER and x.layout is torch.strided for x in tensors)


def _are_plain(written: list[Tensor], read: list[Tensor], memory: Memory) -> bool:
    """Whether there are tensors, all of them what they seem, and what is written lies apart."""
    return bool(read) and not isinstance(_native.look(written, read, memory), str)
