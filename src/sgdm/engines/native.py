"""The engine in C++: the whole plan in one call and one pass over memory, on the CPU.

It has the bits of the eager engine, which are torch's. It serves float64, float32, float16 and
bfloat16 in any dense layout; what it cannot serve right it refuses before anything is written.
`native/step.h` has the formula.
"""

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from sgdm.engines import _native
from sgdm.engines.eager import strides_of_first_buffer
from sgdm.engines.plan import GradientNorm, Part, StepPlan

__all__ = ["gather", "holds", "know_sharded", "prepare"]


_native.set_up(
    torch.Tensor,
    torch.nn.Parameter,
    increment_version,
    torch.get_num_threads,
    GradientNorm.of_squares,
    torch._C.__file__,  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
)
gather = _native.gather
holds = _native.holds
know_sharded = _native.know_sharded


def prepare(plan: StepPlan) -> _native.PreparedStep | str:
    """Return the plan ready to be run, or the reason why this engine cannot run it."""
    if plan.differentiable:
        return "autograd does not record what it writes (differentiable=True)"
    fresh: list[list[Tensor] | None] = [None] * len(plan.parts)
    for i, part in enumerate(plan.parts):
        if part.rule.coefficients.buffer == "first":
            if not all(map(_is_plain, part.params, part.gradients)):
                return "a parameter is not on the CPU, or its gradient sparse or of another shape"
            fresh[i] = _new_buffers(part)
    return _native.prepare(plan.parts, fresh, plan.memory)


def _is_plain(param: Tensor, gradient: Tensor) -> bool:
    """Whether it can be told how a new buffer will lie; the rest is looked at in C++."""
    dense = param.layout is gradient.layout is torch.strided
    return dense and param.is_cpu and param.shape == gradient.shape


def _new_buffers(part: Part) -> list[Tensor]:
    """Return room for the buffers that the rule makes."""
    return [
        torch.empty_strided(
            param.shape,
            strides_of_first_buffer(param, gradient, part.rule),
            dtype=part.rule.buffer_dtype or param.dtype,
            device="cpu",
        )
        for param, gradient in zip(part.params, part.gradients, strict=True)
    ]
