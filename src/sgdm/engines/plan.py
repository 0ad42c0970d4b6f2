"""The plan of a step, as an engine receives it: tensors and coefficients, nothing else."""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from sgdm.recurrence import Coefficients

__all__ = ["Rule", "StepPlan"]


class Rule(NamedTuple):
    """What is done to a tensor: the coefficients, and whether the gradient is negated first."""

    coefficients: Coefficients
    maximize: bool


@dataclass(slots=True)
class StepPlan:
    """The work of one step, as parallel lists.

    Attributes:
        differentiable: Whether autograd records the step.
        params: What is updated in place.
        gradients: One per parameter, same shape and device; never written.
        buffers: One per parameter, or None. The engine updates those that run and puts a new
            tensor where the rule creates one.
        rules: One per parameter; parameters of a group share theirs.
    """

    differentiable: bool = False
    params: list[Tensor] = field(default_factory=list[Tensor])
    gradients: list[Tensor] = field(default_factory=list[Tensor])
    buffers: list[Tensor | None] = field(default_factory=list["Tensor | None"])
    rules: list[Rule] = field(default_factory=list[Rule])

    def add(self, param: Tensor, gradient: Tensor, buffer: Tensor | None, rule: Rule) -> None:
        """Append one tensor's update."""
        self.params.append(param)
        self.gradients.append(gradient)
        self.buffers.append(buffer)
        self.rules.append(rule)
