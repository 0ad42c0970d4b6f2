"""Running the plan of a step: which tensors, with which coefficients.

Everything that steps parameters comes through here. A plan is checked whole before an engine
writes the first element, so that bad input changes nothing.
"""

import torch
from torch import Tensor

from sgdm.engines.choose import choose_engine
from sgdm.engines.plan import StepPlan
from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError
from sgdm.recurrence import Coefficients

__all__ = ["move", "run"]


def run(plan: StepPlan, *, engine: str = "auto") -> None:
    """Check the plan, then let an engine write it.

    Args:
        plan: What to do; its `buffers` hold the new state afterwards.
        engine: "auto", or the name of an engine, which is then used or refused, never replaced.

    Raises:
        InvalidValueError: If a gradient or buffer does not fit its parameter in shape or device.
        InvalidUseError: If a sparse and a dense tensor would have to be added.
        InvalidTypeError: If a buffer is complex and its parameter is not.
    """
    for param, gradient, buffer, rule in zip(
        plan.params, plan.gradients, plan.buffers, plan.rules, strict=True
    ):
        if gradient.shape != param.shape or gradient.device != param.device:
            raise _misfit("gradient", param, gradient, "compute it for this parameter")
        if buffer is not None:
            _check_buffer(param, gradient, buffer, rule.coefficients)
    with torch.set_grad_enabled(plan.differentiable):
        choose_engine(engine).run(plan)


def _check_buffer(param: Tensor, gradient: Tensor, buffer: Tensor, c: Coefficients) -> None:
    if buffer.shape != param.shape or buffer.device != param.device:
        raise _misfit("momentum_buffer", param, buffer, "load the state of this very model")
    if not torch.can_cast(buffer.dtype, param.dtype):
        raise InvalidTypeError.of(
            "momentum_buffer",
            f"of a dtype that fits {param.dtype}",
            buffer.dtype,
            "load the state of this very model",
        )
    # torch adds a sparse gradient to a dense buffer, and neither the other way round nor, as
    # Nesterov's method would, a dense buffer to a sparse gradient.
    adds = gradient.layout is torch.strided or c.gradient_weight != 0
    if c.buffer == "running" and buffer.layout != gradient.layout and adds:
        raise InvalidUseError(
            f"the gradient must have the layout of its momentum_buffer, {buffer.layout}, got "
            f"{gradient.layout}; keep a parameter's gradients sparse, or dense, for a whole run"
        )


@torch.no_grad()
def move(param: Tensor, buffer: Tensor, weight: float) -> None:
    """Set param to param + weight * buffer, rounded once: between θ and its look-ahead point."""
    wide = torch.promote_types(param.dtype, torch.float32)
    param.copy_(torch.add(param.to(wide), buffer.to(wide), alpha=weight))


def _misfit(name: str, param: Tensor, received: Tensor, remedy: str) -> InvalidValueError:
    return InvalidValueError.of(
        name,
        f"of shape {tuple(param.shape)} on {param.device}, as its parameter is",
        f"{tuple(received.shape)} on {received.device}",
        remedy,
    )
