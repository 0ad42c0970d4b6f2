"""The engine for CUDA: all tensors of a device in one launch, decided on the device.

It has the bits of the other engines. Nothing of it is loaded, and Triton is not, until tensors on a
CUDA device are stepped.
"""

from functools import cache

from sgdm.engines.plan import PreparedStep, StepPlan
from sgdm.extras import is_installed

__all__ = ["prepare"]


def prepare(plan: StepPlan) -> PreparedStep | str:
    """Return the plan ready to be run, or the reason why this engine cannot run it."""
    if not plan.parts or not all(part.params[0].is_cuda for part in plan.parts):
        return "a parameter is not on a CUDA device"
    if not _is_there():
        return "Triton is not installed"
    from sgdm.engines.triton import prepared  # noqa: PLC0415 - it loads Triton

    return prepared.prepare(plan)


@cache
def _is_there() -> bool:
    return is_installed("triton")
