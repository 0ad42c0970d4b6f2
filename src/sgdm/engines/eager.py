"""The engine of torch operations: every device, dtype and layout that torch runs.

Order of operations, for each tensor (fma is one rounding, on processors where ATen uses it):

    d = fma(p, coupled_decay, g)
    b = fma(d, gain, round(retain * b))
    u = fma(b, buffer_weight, round(gradient_weight * d))
    p = fma(u, step, round(keep * p))

Terms are left out exactly when coupled_decay = 0, buffer_weight = 0, gradient_weight = 0, keep = 1.
With the coefficients of convention "torch" these are the operations of
`torch.optim.SGD(foreach=False)`, one by one, so they have its bits.

16-bit tensors are computed in float32, and each stored tensor is rounded once. torch's own paths
round in between, the loop and foreach each in its own way.
"""

from typing import Any

import torch
from torch import Tensor

from sgdm.engines.plan import StepPlan
from sgdm.recurrence import Coefficients

__all__ = ["run"]

_SIXTEEN_BIT = (torch.float16, torch.bfloat16)


def run(plan: StepPlan) -> None:
    """Update every parameter and buffer of the plan."""
    buffers = plan.buffers
    for i, (param, gradient, rule) in enumerate(
        zip(plan.params, plan.gradients, plan.rules, strict=True)
    ):
        g, b = -gradient if rule.maximize else gradient, buffers[i]
        if plan.differentiable:
            buffers[i] = _step_recorded(param, g, b, rule.coefficients)
        elif param.dtype in _SIXTEEN_BIT or g.dtype in _SIXTEEN_BIT or _is_sixteen_bit(b):
            buffers[i] = _step_widened(param, g, b, rule.coefficients)
        else:
            buffers[i] = _step(param, g, b, rule.coefficients, in_place=True)[1]


def _is_sixteen_bit(x: Tensor | None) -> bool:
    return x is not None and x.dtype in _SIXTEEN_BIT


def _step_recorded(p: Tensor, g: Tensor, b: Tensor | None, c: Coefficients) -> Tensor | None:
    """Step on new tensors: what autograd saved in one step is not overwritten by the next."""
    new_p, new_b = _step(p.clone(), g, b, c, in_place=False)
    p.copy_(new_p)
    return new_b


def _step_widened(p: Tensor, g: Tensor, b: Tensor | None, c: Coefficients) -> Tensor | None:
    """Step in float32, then round into the stored tensors."""
    wide_b = None if b is None else _widened(b)
    new_p, new_b = _step(_widened(p), _widened(g), wide_b, c, in_place=False)
    p.copy_(new_p)
    if new_b is None or c.buffer not in ("first", "running"):
        return b
    return new_b.to(p.dtype) if b is None or c.buffer == "first" else b.copy_(new_b)


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in _SIXTEEN_BIT else x


def _step(
    p: Tensor, g: Tensor, b: Tensor | None, c: Coefficients, *, in_place: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the new p and b: the same tensors if `in_place`, else new ones."""
    d = g if _is(c.coupled_decay, 0) else _add_scaled(g, p, c.coupled_decay)

    if c.buffer == "first":
        b = d.clone() if _is(c.gain, 1) else d * c.gain
    elif b is not None and c.buffer == "running":
        retained = b.mul_(c.retain) if in_place else b * c.retain
        b = _add_scaled(retained, d, c.gain, in_place=in_place)

    if b is None or _is(c.buffer_weight, 0):
        u = _scale(d, c.gradient_weight)
    elif _is(c.gradient_weight, 0):
        u = _scale(b, c.buffer_weight)
    else:
        u = _add_scaled(_scale(d, c.gradient_weight), b, c.buffer_weight)

    p = _add_scaled(_scale(p, c.keep, in_place=in_place), u, c.step, in_place=in_place)
    return p, b


# A coefficient is a number or, where autograd goes through a hyperparameter, a tensor.


def _is(coefficient: Any, number: int) -> bool:
    return not isinstance(coefficient, Tensor) and coefficient == number


def _scale(x: Tensor, by: Any, *, in_place: bool = False) -> Tensor:
    """Return by*x; x itself where by is 1."""
    if _is(by, 1):
        return x
    return x.mul_(by) if in_place else x * by


def _add_scaled(x: Tensor, y: Tensor, by: Any, *, in_place: bool = False) -> Tensor:
    """Return x + by*y, evaluated also where by is 0: there 0 * inf is NaN, as in torch."""
    if isinstance(by, Tensor):
        return x.addcmul_(y, by) if in_place else torch.addcmul(x, y, by)
    return x.add_(y, alpha=by) if in_place else torch.add(x, y, alpha=by)
