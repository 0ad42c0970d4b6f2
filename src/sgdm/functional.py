"""Building and running the plan of a step: which tensors, with which coefficients.

Everything that steps parameters comes through here. A plan is built and checked whole before an
engine writes the first element, so that bad input changes nothing.
"""

import torch
from torch import Tensor

from sgdm.convention import Convention
from sgdm.engines.choose import choose_engine
from sgdm.engines.plan import Rule, StepPlan
from sgdm.errors import InvalidUseError, InvalidValueError
from sgdm.hyperparameters import Hyperparameters
from sgdm.recurrence import (
    coefficients,
    first_step_differs,
    iterate_weight,
    look_ahead_weight,
    needs_closure,
    stores_look_ahead,
)

__all__ = ["GroupRules", "move", "run"]


class GroupRules:
    """What the hyperparameters of a group mean for its step, worked out once.

    A parameter that gets its first gradient late takes its first step inside a running group, so
    one group may need two rules: one for first steps, one for the others.

    Attributes:
        needs_closure: Whether the gradient is taken at another point than the stored one, at
            p + look_ahead_weight * b.
        look_ahead_weight: 0 where it is taken at p.
        counts_steps: Whether a first step is more than one from a buffer of zeros, so that "not
            yet done" is state.
        iterate_weight: w such that θ = p - w * b after the step; None where p is θ itself.
    """

    __slots__ = (
        "_convention",
        "_hyperparameters",
        "_maximize",
        "_rules",
        "counts_steps",
        "iterate_weight",
        "look_ahead_weight",
        "needs_closure",
    )

    def __init__(self, convention: Convention, h: Hyperparameters, *, maximize: bool) -> None:
        self._convention = convention
        self._hyperparameters = h
        self._maximize = maximize
        self._rules: dict[bool, Rule] = {}
        self.needs_closure = needs_closure(convention, h)
        self.look_ahead_weight = look_ahead_weight(convention, h)
        self.counts_steps = first_step_differs(convention, h)
        ahead = stores_look_ahead(convention, h)
        self.iterate_weight = iterate_weight(convention, h) if ahead else None

    def rule(self, *, first: bool) -> Rule:
        """Return the rule for a parameter whose buffer has seen no gradient yet, or has."""
        rule = self._rules.get(first)
        if rule is None:
            c = coefficients(self._convention, self._hyperparameters, first=first)
            rule = self._rules[first] = Rule(c, self._maximize)
        return rule

    def check_sparse(self) -> None:
        """Refuse sparse gradients where the rule is not defined for them.

        Raises:
            InvalidUseError: If the convention does not take them, or weight decay is on, which
                would have to touch the rows that the gradient leaves out.
        """
        if not self._convention.sparse:
            raise InvalidUseError(
                f"sparse gradients are not defined for convention {self._convention.name!r}; "
                f"use convention='torch', or dense gradients (Embedding(sparse=False))"
            )
        if self._hyperparameters.weight_decay != 0:
            raise InvalidUseError(
                "weight_decay must be 0 with sparse gradients, which leave out the rows that it "
                f"would shrink, got {self._hyperparameters.weight_decay}; put the sparse "
                "parameters into a group with weight_decay=0"
            )


def run(plan: StepPlan, *, engine: str = "auto") -> None:
    """Check the plan, then let an engine write it.

    Args:
        plan: What to do; its `buffers` hold the new state afterwards.
        engine: "auto", or the name of an engine, which is then used or refused, never replaced.

    Raises:
        InvalidValueError: If a gradient or buffer does not fit its parameter.
    """
    for param, gradient, buffer in zip(plan.params, plan.gradients, plan.buffers, strict=True):
        if gradient.shape != param.shape or gradient.device != param.device:
            raise _misfit("gradient", param, gradient, "compute it for this parameter")
        if buffer is not None and (buffer.shape != param.shape or buffer.device != param.device):
            raise _misfit("momentum_buffer", param, buffer, "load the state of this very model")
    with torch.set_grad_enabled(plan.differentiable):
        choose_engine(engine).run(plan)


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
