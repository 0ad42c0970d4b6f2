"""What the memory can do: the traffic of a step, and nothing computed."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from sgdm.bench.cases import Case
from sgdm.bench.rivals import Step
from sgdm.engines import native
from sgdm.engines.plan import Part, Rule, StepPlan
from sgdm.frameworks import get_convention
from sgdm.hyperparameters import Hyperparameters
from sgdm.recurrence import coefficients

__all__ = ["bare_loop"]


def bare_loop(case: Case, start: Sequence[Tensor], gradients: Sequence[Tensor]) -> Step:
    """Return what moves the bytes of one of sgdm's steps, on tensors of its own.

    Args:
        case: What is stepped.
        start: Its parameters; copied.
        gradients: One a parameter; only read.
    """
    h = Hyperparameters(lr=1.0, momentum=0.9)
    rule = Rule(coefficients(get_convention("torch"), h, first=False), average_weight=0.1)
    part = Part(rule, [p.clone() for p in start], list(gradients))
    part.buffers = [p.to(torch.float32, copy=True) for p in start]
    part.averages = [p.clone() for p in start] if case.rule.is_recipe else None
    prepared = native.prepare(StepPlan(parts=[part]))
    assert not isinstance(prepared, str)
    # The norm of a recipe is known before anything is written.
    return partial(prepared.bare_pass, reads_before=case.rule.is_recipe)
