"""The plan of a step, as an engine receives it: tensors and coefficients, nothing else."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from sgdm.engines._native import Memory
from sgdm.recurrence import Coefficients

__all__ = ["GradientNorm", "Part", "PreparedStep", "Rule", "StepPlan", "TensorUpdate"]


class Rule(NamedTuple):
    """What is done to a tensor.

    Attributes:
        coefficients: The step.
        maximize: Whether the gradient is negated first.
        average_weight: Weight of the new parameter in its moving average; None without one.
        buffer_dtype: What a new buffer is stored as; None for its parameter's dtype.
        no_sparse: Why sparse gradients are refused; None where they are not.
    """

    coefficients: Coefficients
    maximize: bool = False
    average_weight: float | None = None
    buffer_dtype: torch.dtype | None = None
    no_sparse: str | None = None


class TensorUpdate(NamedTuple):
    """One tensor's step, out of a part."""

    param: Tensor
    gradient: Tensor
    buffer: Tensor | None
    average: Tensor | None


@dataclass(slots=True)
class Part:
    """Tensors that are stepped by one rule, as parallel lists.

    Attributes:
        rule: What is done to them.
        params: What is updated in place.
        gradients: Of the same shapes, on the same devices; never written.
        buffers: Updated in place where the rule's buffer is "running"; None where the rule touches
            none. Where it is "first" the engine puts the new ones here.
        averages: The moving averages, updated in place; None without them.
    """

    rule: Rule
    params: list[Tensor] = field(default_factory=list[Tensor])
    gradients: list[Tensor] = field(default_factory=list[Tensor])
    buffers: list[Tensor] | None = None
    averages: list[Tensor] | None = None

    def updates(self) -> Iterator[TensorUpdate]:
        """Yield the tensors, one update at a time."""
        nothing = [None] * len(self.params)
        return map(
            TensorUpdate,
            self.params,
            self.gradients,
            self.buffers or nothing,
            self.averages or nothing,
        )


@dataclass(slots=True)
class StepPlan:
    """The work of one step.

    Attributes:
        differentiable: Whether autograd records the step.
        parts: What is done.
        memory: What is remembered of this optimizer's tensors from step to step, to be faster.
    """

    differentiable: bool = False
    parts: list[Part] = field(default_factory=list[Part])
    memory: Memory = field(default_factory=Memory)


class GradientNorm(NamedTuple):
    """The Euclidean norm of all gradients of a plan together.

    Attributes:
        value: The norm.
        nonfinite: The first parameter whose gradient holds NaN or infinity, or None.
    """

    value: float
    nonfinite: Tensor | None

    @classmethod
    def of_squares(cls, squares: list[float], nonfinite: Tensor | None) -> Self:
        """Add squares up: exactly, so that neither threads nor grouping change the norm."""
        try:
            return cls(math.sqrt(math.fsum(squares)), nonfinite)
        except OverflowError:
            return cls(math.inf, nonfinite)


class PreparedStep(Protocol):
    """A plan that an engine has looked at, and will run."""

    def gradient_norm(self) -> GradientNorm:
        """Read the gradients."""
        ...

    def step(self, scale: float) -> None:
        """Update every parameter, buffer and average, with the gradients multiplied by `scale`."""
        ...
