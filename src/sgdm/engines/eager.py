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
from collections.abc import Hashable
from typing import Any, cast

import torch
from torch import Tensor

from sgdm.engines.batches import alike, keys_of
from sgdm.engines.check import check_plan, numbers_of
from sgdm.engines.operations import MANY, ONE, Operations, X, norms_of
from sgdm.engines.plan import GradientNorm, Part, PreparedStep, Rule, StepPlan
from sgdm.recurrence import Coefficients

__all__ = ["prepare", "strides_of_first_buffer"]

_SIXTEEN_BIT = frozenset((torch.float16, torch.bfloat16))


def prepare(plan: StepPlan) -> PreparedStep:
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
            gradients = list(map(_stored, part.gradients))
            for i, norm in enumerate(self._norms(gradients)):
                squares.append(norm * norm)
                finite = math.isfinite(norm) or bool(gradients[i].isfinite().all())
                if nonfinite is None and not finite:
                    nonfinite = part.params[i]
        return GradientNorm.of_squares(squares, nonfinite)

    def step(self, scale: float) -> None:
        """Update every parameter, buffer and average."""
        recorded = self._plan.differentiable
        with torch.set_grad_enabled(recorded):
            for part in self._plan.parts:
                keys = self._keys(part)
                if keys is None:
                    _step_each(part, scale, recorded=recorded)
                    continue
                batches = part.split(keys)
                for batch in batches.values():
                    _step_batch(batch, scale)
                part.take_buffers(batches, keys)

    def _keys(self, part: Part) -> list[Hashable] | None:
        numbers = numbers_of(part.rule.coefficients)
        if self._plan.differentiable or any(isinstance(number, Tensor) for number in numbers):
            return None
        return keys_of(part, self._plan.memory)

    def _norms(self, gradients: list[Tensor]) -> list[float]:
        """Return the norm of each, and wait for a device as seldom as can be."""
        norms = [0.0] * len(gradients)
        for places in alike(gradients, self._plan.memory):
            for i, norm in zip(places, norms_of([gradients[i] for i in places]), strict=True):
                norms[i] = norm
        return norms


def _step_each(part: Part, scale: float, *, recorded: bool) -> None:
    made = [_step_tensors(ONE, update, part.rule, scale, recorded) for update in part.updates()]
    if part.rule.coefficients.buffer in ("first", "running"):
        part.buffers = cast("list[Tensor]", made)


def _step_batch(batch: Part, scale: float) -> None:
    if len(batch.params) == 1:
        _step_each(batch, scale, recorded=False)
        return
    columns = (batch.params, batch.gradients, batch.buffers, batch.averages)
    made = _step_tensors(MANY, columns, batch.rule, scale, recorded=False)
    if batch.rule.coefficients.buffer in ("first", "running"):
        batch.buffers = made


def _step_tensors(
    on: Operations[X],
    tensors: tuple[X, X, X | None, X | None],
    rule: Rule,
    scale: float,
    recorded: bool,
) -> X | None:
    """Step and return the buffer."""
    p, g, b, average = tensors
    c = rule.coefficients
    new_dtype = rule.buffer_dtype or on.dtype(p)
    dtypes = {on.dtype(p), on.dtype(g), new_dtype if b is None else on.dtype(b)}
    if recorded:
        new_p, new_b = _apply(on, on.clone(p), _scaled(on, g, rule, scale), b, c, in_place=False)
        on.copy_(p, new_p)
    elif not _SIXTEEN_BIT.isdisjoint(dtypes):
        wide_g = _scaled(on, _widened(on, g), rule, scale)
        wide_b = None if b is None else _widened(on, b)
        new_p, new_b = _apply(on, _widened(on, p), wide_g, wide_b, c, in_place=False)
        on.copy_(p, new_p)
    else:
        _, new_b = _apply(on, p, _scaled(on, g, rule, scale), b, c, in_place=True)
    if average is not None and rule.average_weight is not None:
        with torch.no_grad():
            # A float32 average of a 16-bit parameter follows what is stored.
            on.move_towards_(average, on.to(p, on.dtype(average)), rule.average_weight)
    if new_b is None or c.buffer == "first":
        return None if new_b is None else on.to(new_b, new_dtype)
    return new_b if recorded or b is None or new_b is b else on.copy_(b, new_b)


def _scaled(on: Operations[X], g: X, rule: Rule, scale: float) -> X:
    if scale != 1:
        g = on.scaled(g, scale)
    return on.negated(g) if rule.maximize else g


def _widened(on: Operations[X], x: X) -> X:
    return on.to(x, torch.float32) if on.dtype(x) in _SIXTEEN_BIT else x


def _apply(
    on: Operations[X], p: X, g: X, b: X | None, c: Coefficients, *, in_place: bool
) -> tuple[X, X | None]:
    """Return the new p and b: the same tensors if `in_place`, else new ones."""
    d = g if _is(c.coupled_decay, 0) else on.added(g, p, c.coupled_decay)

    if c.buffer == "first":
        b = _first(on, d, c)
    elif b is not None and c.buffer == "running":
        b = on.added(on.scaled(b, c.retain, in_place=in_place), d, c.gain, in_place=in_place)

    if b is None or _is(c.buffer_weight, 0):
        u = _times(on, d, c.gradient_weight)
    elif _is(c.gradient_weight, 0):
        u = _times(on, b, c.buffer_weight)
    else:
        u = on.added(_times(on, d, c.gradient_weight), b, c.buffer_weight)

    p = _times(on, p, c.keep, in_place=in_place)
    return on.added(p, u, c.step, in_place=in_place), b


def _first(on: Operations[X], d: X, c: Coefficients) -> X:
    return on.clone(d) if _is(c.gain, 1) else on.scaled(d, c.gain)


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
    g = _scaled(ONE, g, rule, 1)
    return _first(
        ONE, g if _is(c.coupled_decay, 0) else ONE.added(g, p, c.coupled_decay), c
    ).stride()


def _times(on: Operations[X], x: X, by: Any, *, in_place: bool = False) -> X:
    return x if _is(by, 1) else on.scaled(x, by, in_place=in_place)


# A coefficient is a number or, where autograd goes through a hyperparameter, a tensor.


def _is(coefficient: Any, number: int) -> bool:
    return not isinstance(coefficient, Tensor) and coefficient == number


def _stored(gradient: Tensor) -> Tensor:
    """Return the elements that are there: of a sparse gradient each place once."""
    return gradient if gradient.layout is torch.strided else gradient.coalesce().values()
