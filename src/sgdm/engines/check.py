"""What every engine needs of a plan, so that bad input raises before the first write."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from sgdm.engines.plan import Rule, StepPlan, TensorUpdate
from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError
from sgdm.recurrence import Coefficients

__all__ = ["check_plan", "numbers_of"]

_WIDE = (torch.float64, torch.complex128)
_LARGEST = torch.finfo(torch.float32).max
_NUMBERS = [field.name for field in fields(Coefficients) if field.name != "buffer"]


def check_plan(plan: StepPlan) -> None:
    """Check that the tensors of a plan belong together.

    Raises:
        InvalidValueError: If a gradient, buffer or average does not fit its parameter in shape or
            device, or a coefficient is too large for float32.
        InvalidUseError: For sparse gradients that the rule does not take, or if a sparse and a
            dense tensor would have to be added.
        InvalidTypeError: If a buffer is no tensor, or complex and its parameter is not.
    """
    for part in plan.parts:
        if any(p.dtype not in _WIDE for p in part.params):
            _check_coefficients(part.rule.coefficients)
        for update in part.updates():
            param, gradient, buffer, average = update
            if not _fits(gradient, param):
                raise _misfit("gradient", param, gradient, "compute it for this parameter")
            if part.rule.no_sparse and gradient.layout is not torch.strided:
                raise InvalidUseError(part.rule.no_sparse)
            if part.rule.coefficients.buffer == "running":
                _check_buffer(update, part.rule)
            for name, state in (("momentum_buffer", buffer), ("average", average)):
                if state is not None and not _fits(state, param):
                    raise _misfit(name, param, state, "load the state of this very model")


def numbers_of(c: Coefficients) -> list[Any]:
    """Return the coefficients: floats or, where autograd goes through a hyperparameter, tensors."""
    return [getattr(c, name) for name in _NUMBERS]


def _check_coefficients(c: Coefficients) -> None:
    for name, number in zip(_NUMBERS, numbers_of(c), strict=True):
        if not isinstance(number, Tensor) and abs(number) > _LARGEST:
            raise InvalidValueError.of(
                f"the coefficient {name}, made of lr and the other hyperparameters,",
                "a number of float32, as the parameters are",
                number,
                "lower lr, or use float64",
            )


def _check_buffer(update: TensorUpdate, rule: Rule) -> None:
    param, gradient, buffer, _ = update
    if not isinstance(buffer, Tensor):
        raise InvalidTypeError.of(
            "momentum_buffer", "a tensor", buffer, "remove the key where there is none yet"
        )
    if not torch.can_cast(buffer.dtype, param.dtype):
        raise InvalidTypeError.of(
            "momentum_buffer",
            f"of a dtype that fits {param.dtype}",
            buffer.dtype,
            "load the state of this very model",
        )
    # torch adds a sparse gradient to a dense buffer, and neither the other way round nor, as
    # Nesterov's method would, a dense buffer to a sparse gradient.
    adds = gradient.layout is torch.strided or rule.coefficients.gradient_weight != 0
    if buffer.layout != gradient.layout and adds and buffer.shape == param.shape:
        raise InvalidUseError(
            f"the gradient must have the layout of its momentum_buffer, {buffer.layout}, got "
            f"{gradient.layout}; keep a parameter's gradients sparse, or dense, for a whole run"
        )


def _fits(x: Tensor, param: Tensor) -> bool:
    return x.shape == param.shape and x.device == param.device


def _misfit(name: str, param: Tensor, received: Tensor, remedy: str) -> InvalidValueError:
    return InvalidValueError.of(
        name,
        f"of shape {tuple(param.shape)} on {param.device}, as its parameter is",
        f"{tuple(received.shape)} on {received.device}",
        remedy,
    )
