"""Running the plan of a step: the gradients are measured where that is asked for, then it is run.

Everything that steps parameters comes through here. An engine prepares a plan whole before it
writes the first element, so that bad input changes nothing.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sgdm.engines.choose import prepare
from sgdm.engines.plan import StepPlan

__all__ = ["PLAIN", "Options", "Outcome", "move", "run"]


class Options(NamedTuple):
    """What is done to all gradients of a step, besides the rule.

    Attributes:
        unscale: They are multiplied by this first: 1 over the loss scale.
        max_grad_norm: They are scaled down together where their norm is above it; None for never.
        checks_finite: Whether NaN or infinity in a gradient keeps the step from being made.
    """

    unscale: float = 1.0
    max_grad_norm: float | None = None
    checks_finite: bool = False


class Outcome(NamedTuple):
    """What became of a step.

    Attributes:
        grad_norm: The norm of the unscaled gradients, None where it was not asked for.
        skipped: Whether nothing was changed.
        nonfinite: The parameter whose gradient kept the step from being made, or None.
    """

    grad_norm: float | None = None
    skipped: bool = False
    nonfinite: Tensor | None = None


PLAIN = Options()
_DONE = Outcome()


def run(plan: StepPlan, *, engine: str = "auto", options: Options = PLAIN) -> Outcome:
    """Let an engine run the plan.

    The gradients are multiplied once, by unscale * min(1, max_grad_norm / (norm + 1e-6)), the norm
    being that of all unscaled gradients together, as `torch.nn.utils.clip_grad_norm_` has it.

    Args:
        plan: What to do; its parts hold the new state afterwards.
        engine: "auto", or the name of an engine, which is then used or refused, never replaced.
        options: What is done to the gradients.

    Returns:
        What became of it.

    Raises:
        InvalidValueError: If a gradient or buffer does not fit its parameter in shape or device.
        InvalidUseError: If the engine cannot run the plan, or for sparse gradients that the rule
            does not take.
        InvalidTypeError: If a buffer is complex and its parameter is not.
    """
    prepared = prepare(plan, engine)
    scale, max_norm = options.unscale, options.max_grad_norm
    outcome = _DONE
    if max_norm is not None or options.checks_finite:
        measured = prepared.gradient_norm()
        norm = measured.value * options.unscale
        if options.checks_finite and measured.nonfinite is not None:
            return Outcome(norm, skipped=True, nonfinite=measured.nonfinite)
        outcome = Outcome(norm)
        if max_norm is not None and max_norm != math.inf:  # which measures only
            ratio = max_norm / (norm + 1e-6)
            if not ratio >= 1:  # NaN goes on, as in torch
                scale *= ratio
    prepared.step(scale)
    return outcome


@torch.no_grad()
def move(param: Tensor, buffer: Tensor, weight: float) -> None:
    """Set param to param + weight * buffer, rounded once: between θ and its look-ahead point."""
    wide = torch.promote_types(param.dtype, torch.float32)
    param.copy_(torch.add(param.to(wide), buffer.to(wide), alpha=weight))
