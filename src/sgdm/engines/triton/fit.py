"""What a plan's tensors must be to be stepped by the kernels, and what is compiled in of them.

It is looked at once for each structure: as long as nothing but addresses changes, so does nothing
of what is said here.
"""

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from sgdm.engines.plan import Part, TensorUpdate

__all__ = ["Fit", "Kind", "fit"]

_STORED_AS: dict[torch.dtype, tl.dtype] = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}

# The dtypes of a parameter, its gradient, buffer and average, None where there is none.
Kind = tuple[tl.dtype, tl.dtype, tl.dtype | None, tl.dtype | None]


class Fit(NamedTuple):
    """What there is to know of tensors that can be stepped.

    Attributes:
        kinds: Of each tensor.
        counts: Of the elements of each.
        copied: Which gradients lie otherwise in memory than their parameters, and are copied.
    """

    kinds: list[Kind]
    counts: list[int]
    copied: list[int]


def fit(parts: list[Part], buffers: list[list[Tensor] | None]) -> Fit | str:
    """Look at all tensors of a plan.

    Args:
        parts: Of the plan. Their tensors are known to be plain, strided and apart.
        buffers: Of each part; None where none are stepped.

    Returns:
        What there is to know, or the reason why they cannot be stepped.
    """
    found = Fit([], [], [])
    device = parts[0].params[0].device
    for part, held in zip(parts, buffers, strict=True):
        for i, update in enumerate(part.updates()):
            own = update._replace(buffer=None if held is None else held[i])
            reason = _misfit(own, device)
            if reason is not None:
                return reason
            if not _lie_alike(own.param, own.gradient):
                found.copied.append(len(found.counts))
            found.kinds.append(_kind(own))
            found.counts.append(own.param.numel())
    return found


def _misfit(update: TensorUpdate, device: torch.device) -> str | None:
    param = update.param
    held = {
        "parameter": param,
        "gradient": update.gradient,
        "momentum_buffer": update.buffer,
        "moving average": update.average,
    }
    for name, x in held.items():
        if x is None:
            continue
        if x.device != device:
            return f"a {name} is on {x.device} and others are on {device}"
        if x.dtype not in _STORED_AS:
            return f"a {name} is of a dtype other than float64, float32, float16 and bfloat16"
        if (x.dtype == torch.float64) != (param.dtype == torch.float64):
            return f"a {name} is float64 and its parameter is not, or the other way round"
        if x.shape != param.shape:
            return f"a {name} is of another shape than its parameter"
        if name not in ("parameter", "gradient") and not _lie_alike(param, x):
            return f"a {name} lies otherwise in memory than its parameter"
    return None if _is_dense(param) else "a parameter is a view that leaves gaps in its memory"


def _kind(update: TensorUpdate) -> Kind:
    return (
        _STORED_AS[update.param.dtype],
        _STORED_AS[update.gradient.dtype],
        None if update.buffer is None else _STORED_AS[update.buffer.dtype],
        None if update.average is None else _STORED_AS[update.average.dtype],
    )


def _lie_alike(a: Tensor, b: Tensor) -> bool:
    """Whether the elements of two tensors of one shape are in the same order in memory."""
    if a.stride() == b.stride() or a.numel() == 0:
        return True
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(x == y for size, x, y in strides if size != 1)


def _is_dense(x: Tensor) -> bool:
    """Whether the elements fill their memory, in any order of dimensions."""
    if x.is_contiguous() or x.numel() == 0:
        return True
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
