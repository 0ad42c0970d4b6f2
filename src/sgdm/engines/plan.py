"""The plan of a step, as an engine receives it: tensors and coefficients, nothing else."""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from sgdm.engines import _native
from sgdm.recurrence import Coefficients

__all__ = [
    "PLAIN",
    "DecidingStep",
    "GradientNorm",
    "Memory",
    "Options",
    "Outcome",
    "OverRanks",
    "Part",
    "PreparedStep",
    "Rule",
    "StepPlan",
    "TensorUpdate",
]


class Memory(_native.Memory):
    """What is remembered of an optimizer's tensors from step to step, to be faster.

    It changes nothing else, and holds on to no tensor of the optimizer's.

    Attributes:
        on_device: What the engine of a device keeps there, by that engine's name; and the memory of
            each device, by its name, where there are several.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on_device: dict[str, Any] = {}


class Options(NamedTuple):
    """What is done to all gradients of a step, besides the rule.

    Attributes:
        grad_scale: They are divided by this first: the loss scale, or None.
        found_inf: Not 0 where GradScaler has found an overflow, or None. The step is not made then.
        max_grad_norm: They are scaled down together where their norm is above it; None for never.
        checks_finite: Whether NaN or infinity in a gradient keeps the step from being made.
        waits: Whether the outcome must be known at once, also where a device decides it.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None
    max_grad_norm: float | None = None
    checks_finite: bool = False
    waits: bool = False

    @property
    def measures(self) -> bool:
        """Whether the gradients are looked at before the step."""
        return self.max_grad_norm is not None or self.checks_finite

    @property
    def may_skip(self) -> bool:
        """Whether it depends on the gradients that the step is made."""
        return self.found_inf is not None or self.checks_finite


class Outcome(NamedTuple):
    """What became of a step.

    What a device has decided, and nobody waits for, is a tensor of one element on it, which the
    next step of the same plan leaves as it is.

    Attributes:
        grad_norm: The norm of the unscaled gradients, None where it was not asked for; a tensor is
            negative where GradScaler had found an overflow.
        skipped: Whether nothing was changed.
        finite: Whether the gradients were, where that was asked for, on all processes.
        nonfinite: A parameter whose gradient was not, or its shard; None where this process has
            none, or nobody waits.
    """

    grad_norm: float | Tensor | None = None
    skipped: bool | Tensor = False
    finite: bool | Tensor = True
    nonfinite: Tensor | None = None


#: Nothing is done to the gradients.
PLAIN = Options()


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
        wholes: The parameters as the user holds them, where some are DTensors and `params` has
            their shards; None where it has them all as they are. No engine reads them.
    """

    rule: Rule
    params: list[Tensor] = field(default_factory=list[Tensor])
    gradients: list[Tensor] = field(default_factory=list[Tensor])
    buffers: list[Tensor] | None = None
    averages: list[Tensor] | None = None
    wholes: list[Tensor] | None = None

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

    def split(self, keys: Sequence[Hashable]) -> "dict[Hashable, Part]":
        """Return the tensors in parts of those that have the same key; there is one for each."""
        pieces: dict[Hashable, Part] = {}
        for key, (param, gradient, buffer, average) in zip(keys, self.updates(), strict=True):
            piece = pieces.get(key)
            if piece is None:
                piece = pieces[key] = Part(self.rule)
                piece.buffers = None if self.buffers is None else []
                piece.averages = None if self.averages is None else []
            piece.params.append(param)
            piece.gradients.append(gradient)
            if piece.buffers is not None and buffer is not None:
                piece.buffers.append(buffer)
            if piece.averages is not None and average is not None:
                piece.averages.append(average)
        return pieces

    def take_buffers(self, pieces: "Mapping[Hashable, Part]", keys: Sequence[Hashable]) -> None:
        """Take the buffers over that the parts which it was split into have now."""
        buffers = {key: iter(piece.buffers or ()) for key, piece in pieces.items()}
        if any(piece.buffers is not None for piece in pieces.values()):
            self.buffers = [next(buffers[key]) for key in keys]


@dataclass(slots=True)
class StepPlan:
    """The work of one step.

    Attributes:
        differentiable: Whether autograd records the step.
        parts: What is done.
        wholes: All DTensors of the optimizer, also those without a gradient in this step: their
            processes decide together.
        memory: What is remembered of this optimizer's tensors from step to step, to be faster.
    """

    differentiable: bool = False
    parts: list[Part] = field(default_factory=list[Part])
    wholes: list[Tensor] = field(default_factory=list[Tensor])
    memory: Memory = field(default_factory=Memory)


class GradientNorm(NamedTuple):
    """The Euclidean norm of all gradients of a plan together.

    Attributes:
        square: Of the norm.
        nonfinite: The first parameter whose gradient holds NaN or infinity, or None.
    """

    square: float
    nonfinite: Tensor | None

    @property
    def value(self) -> float:
        """The norm."""
        return math.sqrt(self.square)

    @classmethod
    def of_squares(cls, squares: list[float], nonfinite: Tensor | None) -> Self:
        """Add squares up: exactly, so that neither threads nor grouping change the norm."""
        try:
            return cls(math.fsum(squares), nonfinite)
        except OverflowError:
            return cls(math.inf, nonfinite)


#: Adds three numbers of float64 up over processes, in place. They are the square of the norm of
#: the gradients as they are and, as 0 or 1, whether one is not finite and whether GradScaler has
#: found an overflow.
OverRanks = Callable[[Tensor], None]


class PreparedStep(Protocol):
    """A plan that an engine has looked at, and will run."""

    def gradient_norm(self) -> GradientNorm:
        """Read the gradients."""
        ...

    def step(self, scale: float) -> None:
        """Update every parameter, buffer and average, with the gradients multiplied by `scale`."""
        ...


class DecidingStep:
    """A prepared step that can decide on its device what becomes of it.

    It is no abstract class: asking for one of those takes 130 ns, at every step.
    """

    def run(self, options: Options, over_ranks: OverRanks | None = None) -> Outcome:
        """Make the step, or skip it, as the options ask.

        Args:
            options: What is asked.
            over_ranks: Adds up what the processes have found; None for a process by itself.
        """
        raise NotImplementedError

    def refresh(self, options: Options) -> None:
        """Bring what a captured run reads up to date."""
        raise NotImplementedError
