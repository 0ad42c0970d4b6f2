"""The running of every step's plan.

Everything that steps parameters comes through here: the gradients are measured where that is asked
for, then the plan is run. An engine prepares a plan whole before it writes the first element, so
that bad input changes nothing.
"""

import math

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from sgdm.engines.choose import prepare
from sgdm.engines.plan import (
    PLAIN,
    DecidingStep,
    Options,
    Outcome,
    PreparedStep,
    StepPlan,
)
from sgdm.errors import InvalidUseError
from sgdm.ranks import ask, sum_over_ranks

__all__ = ["move", "refresh", "run"]

_DONE = Outcome()


def run(plan: StepPlan, *, engine: str = "auto", options: Options = PLAIN) -> Outcome:
    """Let an engine run the plan.

    The gradients are multiplied once, by min(1, max_grad_norm / (norm + 1e-6)) / grad_scale, the
    norm being that of all unscaled gradients together, as `torch.nn.utils.clip_grad_norm_` has it.

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
    if plan.wholes:
        return _run_shards(plan, prepared, engine, options)
    if isinstance(prepared, DecidingStep):
        return prepared.run(options)
    return _decide(plan, prepared, engine, options)


def refresh(plan: StepPlan, *, engine: str = "auto", options: Options = PLAIN) -> None:
    """Bring what a captured step of these tensors reads up to date, and do not step.

    Args:
        plan: The step as it is asked for now.
        engine: As for `run`.
        options: As for `run`.

    Raises:
        InvalidUseError: If no such step was captured.
    """
    prepared = prepare(plan, engine)
    if not isinstance(prepared, DecidingStep) or plan.wholes:
        raise InvalidUseError(
            "refresh_hyperparameters() must be called on an optimizer whose step was captured into "
            "a CUDA graph, got tensors that engine='triton' does not step alone; without a capture "
            "step() reads the hyperparameters itself"
        )
    prepared.refresh(options)


def _run_shards(plan: StepPlan, prepared: PreparedStep, engine: str, options: Options) -> Outcome:
    over_ranks = sum_over_ranks(plan) if isinstance(prepared, DecidingStep) else None
    if isinstance(prepared, DecidingStep) and over_ranks is not None:
        outcome = prepared.run(options, over_ranks)
    else:
        outcome = _decide(plan, prepared, engine, options)
    if outcome.skipped is not True:
        for part in plan.parts:
            increment_version(part.wholes or ())  # a graph that has kept one is known to be stale
    return outcome


def _decide(plan: StepPlan, prepared: PreparedStep, engine: str, options: Options) -> Outcome:
    """Run the plan, or skip it, as the gradients of all processes are."""
    if options is PLAIN:
        prepared.step(1.0)
        return _DONE
    asked = ask(plan, prepared, engine, options)
    if asked.found:
        return Outcome(skipped=True)
    scale = 1.0 if options.grad_scale is None else 1 / float(options.grad_scale)
    max_norm = options.max_grad_norm
    outcome = _DONE
    if asked.norm is not None:
        norm = asked.norm.value * scale
        if options.checks_finite and not asked.finite:
            return Outcome(norm, skipped=True, finite=False, nonfinite=asked.norm.nonfinite)
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
