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

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from sgdm.engines.check import check_plan
from sgdm.engines.plan import GradientNorm, Part, PreparedStep, Rule, StepPlan, TensorUpdate
from sgdm.recurrence import Coefficients

__all__ = ["prepare", "strides_of_first_buffer"]

_SIXTEEN_BIT = frozenset((torch.float16, torch.bfloat16))


def prepare(plan: StepPlan) -> PreparedStep | str:
    """Return the plan ready to be run: this engine runs whatever torch can add."""
    check_plan(plan)
    return _EagerStep(plan)


class _EagerStep:
    """A plan that has been checked."""

    __slots__ = ("_plan",)

    def __init__(self, plan: StepPlan) -> None:
        self._plan = plan

    @torch.no_grad()
    def gradient_norm(self) -> GradientNorm:
        """Add the squares up in float64."""
        squares: list[float] = []
        nonfinite = None
        for part in self._plan.parts:
            for param, gradient in zip(part.params, part.gradients, strict=True):
                stored = gradient if gradient.layout is torch.strided else _values_of(gradient)
                wide = torch.complex128 if stored.is_complex() else torch.float64
                norm = cast("float", torch.linalg.vector_norm(stored, dtype=wide).item())
                squares.append(norm * norm)
                finite = math.isfinite(norm) or bool(stored.isfinite().all())
                if nonfinite is None and not finite:
                    nonfinite = param
        return GradientNorm.of_squares(squares, nonfinite)

    def step(self, scale: float) -> None:
        """Update every parameter, buffer and average."""
        with torch.set_grad_enabled(self._plan.differentiable):
            for part in self._plan.parts:
                self._step_part(part, scale)

    def _step_part(self, part: Part, scale: float) -> None:
        rule = part.rule
        made: list[Tensor] = []
        for update in part.updates():
            buffer = self._step_tensor(update, part, scale)
            if buffer is not None:
                made.append(buffer)
            if update.average is not None and rule.average_weight is not None:
                with torch.no_grad():
                    # A float32 average of a 16-bit parameter follows what is stored.
                    now = update.param.to(update.average.dtype)
                    update.average.lerp_(now, rule.average_weight)
        if rule.coefficients.buffer in ("first", "running"):
            part.buffers = made

    def _step_tensor(self, update: TensorUpdate, part: Part, scale: float) -> Tensor | None:
        """Step one tensor and return its buffer."""
        p, g, b, _ = update
        scaled = partial(_scaled, scale=scale, maximize=part.rule.maximize)
        c, new_dtype = part.rule.coefficients, part.rule.buffer_dtype or p.dtype
        dtypes = {p.dtype, g.dtype, new_dtype if b is None else b.dtype}
        if self._plan.differentiable:
            new_p, new_b = _step(p.clone(), scaled(g), b, c, in_place=False)
            p.copy_(new_p)
        elif not _SIXTEEN_BIT.isdisjoint(dtypes):
            wide_b = None if b is None else _widened(b)
            new_p, new_b = _step(_widened(p), scaled(_widened(g)), wide_b, c, in_place=False)
            p.copy_(new_p)
        else:
            _, new_b = _step(p, scaled(g), b, c, in_place=True)
        if new_b is None or c.buffer == "first":
            return None if new_b is None else new_b.to(new_dtype)
        return new_b if self._plan.differentiable or b is None or new_b is b else b.copy_(new_b)


def _values_of(gradient: Tensor) -> Tensor:
    """Return the elements that a sparse gradient stores, each place once."""
    return gradient.coalesce().values()


def _scaled(g: Tensor, *, scale: float, maximize: bool) -> Tensor:
    if scale != 1:
        g = g * scale
    return -g if maximize else g


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in _SIXTEEN_BIT else x


def _step(
    p: Tensor, g: Tensor, b: Tensor | None, c: Coefficients, *, in_place: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the new p and b: the same tensors if `in_place`, else new ones."""
    d = g if _is(c.coupled_decay, 0) else _add_scaled(g, p, c.coupled_decay)

    if c.buffer == "first":
        b = _first(d, c)
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


def _first(d: Tensor, c: Coefficients) -> Tensor:
    return d.clone() if _is(c.gain, 1) else d * c.gain


def strides_of_first_buffer(param: Tensor, gradient: Tensor, rule: Rule) -> tuple[int, ...]:
    """Return how a first buffer lies in memory: as torch's does, by its gradient.

    Later steps depend on it: torch rounds otherwise where it adds an expanded gradient.
    """
    if gradient.stride() == param.stride():
        return param.stride()
    p, g = (
        torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
        for x in (param, gradient)
    )
    c = rule.coefficients
    g = _scaled(g, scale=1, maximize=rule.maximize)
    return _first(g if _is(c.coupled_decay, 0) else _add_scaled(g, p, c.coupled_decay), c).stride()


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
