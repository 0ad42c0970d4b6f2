"""From the groups and state of an optimizer to the parts of a plan, and back after the step."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from sgdm.engines.native import gather
from sgdm.engines.plan import Part, StepPlan
from sgdm.group import GroupRules
from sgdm.shards import as_whole, gradient_shard, is_whole, shard_of
from sgdm.state import AVERAGE, BUFFER, STEPS, State, new_average

__all__ = ["add_parts", "keep", "makes_state"]


def add_parts(
    plan: StepPlan,
    params: list[Tensor],
    rules: GroupRules,
    state: State,
    gradients: Iterable[Tensor | None] | None = None,
) -> Iterable[Part]:
    """Add a group's parameters that have a gradient to the plan, by how they are stepped.

    Args:
        plan: The step.
        params: Of one group.
        rules: The group's.
        state: The optimizer's.
        gradients: Of the parameters; None where they have them themselves.

    Returns:
        The parts of which the step makes more than tensors written in place, for `keep`.
    """
    if gradients is None and not (rules.counts_steps or plan.differentiable):  # the common case
        keys = (
            BUFFER if rules.makes_buffers else None,
            AVERAGE if rules.average_weight is not None else None,
        )
        found = gather(params, state, *keys, plan.memory)
        if found is not None:
            if found[0]:
                plan.parts.append(Part(rules.rule(first=not rules.makes_buffers), *found))
            return ()
    parts: dict[tuple[bool, bool], Part] = {}
    gradients = (p.grad for p in params) if gradients is None else gradients
    for param, gradient in zip(params, gradients, strict=True):
        if gradient is None:
            continue
        held: dict[str, Any] = state.get(param, {})
        buffer: Tensor | None = held.get(BUFFER)
        average: Tensor | None = held.get(AVERAGE)
        first = buffer is None or held.get(STEPS) == 0
        averaged = average is not None and rules.average_weight is not None
        part = parts.get((first, averaged))
        if part is None:
            part = parts[first, averaged] = Part(rules.rule(first=first))
            part.buffers = [] if part.rule.coefficients.buffer == "running" else None
            part.averages = [] if averaged else None
        part.params.append(param)
        part.gradients.append(gradient)
        if part.buffers is not None and buffer is not None:
            part.buffers.append(buffer)
        if part.averages is not None and average is not None:
            part.averages.append(average)
    if not plan.differentiable:
        _take_shards(parts.values())
    plan.parts += parts.values()
    return parts.values()


def _take_shards(parts: Iterable[Part]) -> None:
    """Put shards in the place of DTensors."""
    for part in parts:
        if not any(map(is_whole, part.params + part.gradients)):
            continue
        part.wholes = part.params
        part.params = list(map(shard_of, part.wholes))
        part.gradients = list(map(gradient_shard, part.wholes, part.gradients))
        part.buffers = None if part.buffers is None else list(map(shard_of, part.buffers))
        part.averages = None if part.averages is None else list(map(shard_of, part.averages))


def makes_state(part: Part, rules: GroupRules, state: State) -> bool:
    """Whether `keep` will have something to keep of a step that is not skipped."""
    if part.rule.coefficients.buffer == "first":
        return True
    if rules.average_weight is not None and part.averages is None:
        return True
    if part.buffers is None:
        return False
    return rules.counts_steps or any(STEPS in state[p] for p in part.wholes or part.params)


def keep(part: Part, rules: GroupRules, state: State) -> None:
    """Keep what the step made: buffers, counts of steps, the beginnings of averages."""
    starts_average = rules.average_weight is not None and part.averages is None
    for i, param in enumerate(part.wholes or part.params):
        if part.buffers is not None:
            held = state[param]
            if part.wholes is None:
                held[BUFFER] = part.buffers[i]
            elif BUFFER not in held or shard_of(held[BUFFER]) is not part.buffers[i]:  # it is new
                held[BUFFER] = as_whole(part.buffers[i], param)
            if rules.counts_steps or STEPS in held:
                held[STEPS] = held.get(STEPS, 0) + 1
        if starts_average:
            state[param][AVERAGE] = new_average(param)
