"""The contestants: sgdm and torch's own ways to take the same step, each on parameters of its own.

Gradients never change, so contestants that only read them share them.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sgdm.bench.cases import Case
from sgdm.optimizer import SGD

__all__ = [
    "COMPILED",
    "COMPOSED",
    "DEFAULT",
    "FOREACH",
    "FUSED",
    "SGDM",
    "Contestant",
    "Step",
    "build",
    "names_of",
]

Step = Callable[[], object]

SGDM = "sgdm"
DEFAULT, FOREACH, FUSED = "torch default", "torch foreach", "torch fused"
COMPILED, COMPOSED = "torch compiled", "torch composed"

_LR, _MOMENTUM = 1e-3, 0.9  # small enough that thousands of steps stay finite
_MAX_NORM, _DECAY = 1.0, 0.999


@dataclass(slots=True)
class Contestant:
    """Something that takes steps.

    Attributes:
        name: In the results.
        params: What it updates.
        step: Takes one step.
        buffer_dtype: Of its momentum buffers, as torch calls it.
    """

    name: str
    params: list[nn.Parameter]
    step: Step
    buffer_dtype: str


def names_of(case: Case, *, compiled: bool) -> list[str]:
    """Return who takes part, sgdm first.

    Args:
        case: What is stepped.
        compiled: Whether torch's compiler takes part where it can.
    """
    if case.rule.is_recipe:
        return [SGDM, COMPOSED]
    if case.dtype == "bfloat16":
        return [SGDM, DEFAULT, FOREACH]  # fused=True is wrong there on the CPU, as of torch 2.13
    return [SGDM, DEFAULT, FOREACH, FUSED, *([COMPILED] if compiled else [])]


def build(
    name: str, case: Case, start: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Contestant:
    """Set a contestant up, and take its first step, which makes its state.

    Args:
        name: One of `names_of(case)`.
        case: What is stepped.
        start: The parameters to begin with; copied.
        gradients: One a parameter; copied if the contestant writes them.

    Raises:
        RuntimeError: If torch's compiler does not work here.
    """
    params = [nn.Parameter(p.clone()) for p in start]
    writes = _writes_gradients(name, case)
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = gradient.clone() if writes else gradient
    if name == SGDM:
        optimizer = SGD(params, **sgdm_arguments(case))
    else:
        optimizer = torch.optim.SGD(params, **torch_arguments(name, case))
    step = cast("Step", optimizer.step)
    if name == COMPOSED:
        step = _composed(step, params)
    step()
    if name == COMPILED:
        step = _compiled(step)
    return Contestant(name, params, step, "float32" if name == SGDM else case.dtype)


def sgdm_arguments(case: Case) -> dict[str, Any]:
    """Return what `sgdm.SGD` is called with."""
    arguments = _common_arguments(case)
    if case.dtype == "bfloat16":
        arguments["buffer_dtype"] = torch.float32
    if case.rule.is_recipe:
        arguments |= {"max_grad_norm": _MAX_NORM, "ema_decay": _DECAY}
    return arguments


def torch_arguments(name: str, case: Case) -> dict[str, Any]:
    """Return what `torch.optim.SGD` is called with."""
    hints: dict[str, dict[str, Any]] = {
        FOREACH: {"foreach": True},
        FUSED: {"fused": True},
        COMPOSED: {"fused": True},
    }
    return _common_arguments(case) | hints.get(name, {})


def _common_arguments(case: Case) -> dict[str, Any]:
    return {
        "lr": _LR,
        "momentum": _MOMENTUM,
        "nesterov": case.rule.nesterov,
        "weight_decay": case.rule.weight_decay,
    }


def _writes_gradients(name: str, case: Case) -> bool:
    overwrites = name == FOREACH and case.rule.nesterov and not case.rule.weight_decay
    return overwrites or name == COMPOSED


def _composed(step: Step, params: Sequence[nn.Parameter]) -> Step:
    """Return torch's fastest way to clip, step and average."""
    values = [p.detach() for p in params]
    averages = [p.clone() for p in values]

    def composed() -> None:
        torch.nn.utils.clip_grad_norm_(params, _MAX_NORM, foreach=True)
        step()
        torch._foreach_lerp_(averages, values, 1 - _DECAY)  # pyright: ignore[reportPrivateUsage]

    return composed


def _compiled(step: Step) -> Step:
    # Every contestant compiles the same function, and after eight times Dynamo gives up, silently.
    torch.compiler.reset()
    compiled = torch.compile(step)
    log = logging.getLogger("torch._dynamo")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns that the profiler will not see the step
    try:
        compiled()
    finally:
        log.setLevel(level)
    return compiled
