"""The kernels of the engine for CUDA on the CPU, by Triton's interpreter: for tests."""

import os

from sgdm.engines import eager
from sgdm.engines.plan import PreparedStep, StepPlan

__all__ = ["prepare"]


def prepare(plan: StepPlan) -> PreparedStep | str:
    """Return the plan ready to be run, or the reason why it cannot be."""
    if not plan.parts:
        return eager.prepare(plan)  # there is nothing to do
    if os.environ.get("TRITON_INTERPRET") != "1":
        return (
            "a parameter is not on a CUDA device (on the CPU it runs in Triton's interpreter only, "
            "where TRITON_INTERPRET=1 is set before Triton is loaded)"
        )
    from sgdm.engines.triton import prepared  # noqa: PLC0415 - it loads Triton

    return prepared.prepare(plan)
