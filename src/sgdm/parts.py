"""From the groups and state of an optimizer to the parts of a plan, and back after the step."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sgdm.engines.native import gather
from sgdm.engines.plan import Part, StepPlan
from sgdm.group import GroupRules
from sgdm.state import AVERAGE, BUFFER, STEPS, State, new_average

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add_parts", "keep"]


def add_parts(
    plan: StepPlan, group: dict[str, Any], rules: GroupRules, state: State
) -> Iterable[Part]:
    """Add the group's parameters that have a gradient to the plan, by how they are stepped.

    Returns:
        The parts of which the step makes more than tensors written in place, for `keep`.
    """
    if rules.average_weight is None and not (rules.counts_steps or plan.differentiable):
        plain = gather(group["params"], state, BUFFER, plan.memory)  # the common case
        if plain is not None:
            if plain[0]:
                plan.parts.append(Part(rules.rule(first=False), *plain))
            return ()
    parts: dict[tuple[bool, bool], Part] = {}
    for param in group["params"]:
        gradient = param.grad
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
    plan.parts += parts.values()
    return parts.values()


def keep(part: Part, rules: GroupRules, state: State) -> None:
    """Keep what the step made: buffers, counts of steps, the beginnings of averages."""
    starts_average = rules.average_weight is not None and part.averages is None
    for i, param in enumerate(part.params):
        if part.buffers is not None:
            held = state[param]
            held[BUFFER] = part.buffers[i]
            if rules.counts_steps or STEPS in held:
                held[STEPS] = held.get(STEPS, 0) + 1
        if starts_average:
            state[param][AVERAGE] = new_average(param)
