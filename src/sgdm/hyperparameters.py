"""The hyperparameters of one step, and the ranges they must lie in.

NaN and infinity are refused before any comparison: a check of the form `x < 0` lets NaN through.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NamedTuple, SupportsFloat, get_args

from sgdm.convention import Convention, WeightDecayMode
from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError

__all__ = [
    "Hyperparameters",
    "NonFinite",
    "check_combination",
    "check_finite",
    "check_lr0",
    "check_max_grad_norm",
    "check_nesterov",
    "check_nonfinite",
    "check_nu",
    "check_range",
    "check_weight_decay_mode",
]


NonFinite = Literal["propagate", "skip", "raise"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameters:
    """The numbers that one step is run with; any arithmetic type, symbols included.

    Attributes:
        lr: ε_t, the learning rate of this step.
        momentum: μ_t, or μ_{t+1} for a convention whose `momentum` is "next".
        dampening: τ; the gradient enters the buffer with weight 1 - τ.
        weight_decay: λ.
        nesterov: Whether Nesterov's method is asked for.
        weight_decay_mode: How λ acts; None takes the convention's own way.
        lr0: ε_0, the learning rate at construction; needed by the modes "lr/lr0" and "lr^2/lr0".
        nu: ν of quasi-hyperbolic momentum; needed by conventions that look ahead by "nu".
        last_momentum: μ_{t-1}, for a convention whose `momentum` is "previous"; None takes μ_t.
    """

    lr: Any
    momentum: Any = 0
    dampening: Any = 0
    weight_decay: Any = 0
    nesterov: bool = False
    weight_decay_mode: WeightDecayMode | None = None
    lr0: Any = None
    nu: Any = None
    last_momentum: Any = None


class _Range(NamedTuple):
    """What a hyperparameter must be, and torch's words when it is not."""

    minimum: float
    requirement: str
    torch_text: str
    remedy: str
    below: float = math.inf


_RANGES = {
    "lr": _Range(
        0.0, "a finite number >= 0", "Invalid learning rate: {}", "pass a step size such as lr=0.1"
    ),
    "momentum": _Range(
        0.0,
        "a finite number >= 0",
        "Invalid momentum value: {}",
        "pass a factor such as momentum=0.9, or 0 for plain SGD",
    ),
    "dampening": _Range(
        -math.inf,
        "a finite number",
        "Invalid dampening value: {}",
        "pass a factor such as dampening=0.5, or 0 for none",
    ),
    "weight_decay": _Range(
        0.0,
        "a finite number >= 0",
        "Invalid weight_decay value: {}",
        "pass a factor such as weight_decay=1e-4, or 0 for none",
    ),
    "last_momentum": _Range(
        0.0, "a finite number >= 0", "", "load the state of a run that was saved whole"
    ),
    "nu": _Range(
        -math.inf,
        "a finite number",
        "",
        "pass the buffer's share of the move, such as nu=0.7",
    ),
    "ema_decay": _Range(
        0.0,
        "a number >= 0 and < 1",
        "",
        "pass a factor such as ema_decay=0.999, or None for no average",
        below=1.0,
    ),
}


def check_finite(name: str, value: SupportsFloat) -> None:
    """Refuse NaN and infinity, at every step, wherever a scheduler may have written them.

    Raises:
        InvalidValueError: If `value` is not finite.
    """
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an int beyond every float
        value, finite = math.inf, False
    if not finite:
        raise _out_of_range(name, value)


def check_range(name: str, value: object) -> None:
    """Check one hyperparameter, a Python number, when it is given.

    Raises:
        InvalidTypeError: If `value` is not a real number.
        InvalidValueError: If it is not finite or outside its range.
    """
    bounds = _RANGES[name]
    if not isinstance(value, Real):
        raise InvalidTypeError.of(
            name,
            "a number or a one-element tensor" if bounds.torch_text else "a number",
            value,
            f"convert it first: {name}=float(...)",
        )
    check_finite(name, value)
    if not bounds.minimum <= float(value) < bounds.below:
        raise _out_of_range(name, value)


def _out_of_range(name: str, value: object) -> InvalidValueError:
    bounds = _RANGES[name]
    text = bounds.torch_text.format(value)
    return InvalidValueError.of(name, bounds.requirement, value, bounds.remedy, torch_text=text)


def check_max_grad_norm(value: object) -> None:
    """Check the norm that gradients are scaled down to.

    Raises:
        InvalidTypeError: If `value` is neither None nor a real number.
        InvalidValueError: If it is NaN, zero or negative.
    """
    if value is None:
        return
    remedy = "pass a norm such as max_grad_norm=1.0, math.inf to measure only, or None"
    if not isinstance(value, Real):
        raise InvalidTypeError.of("max_grad_norm", "a number or None", value, remedy)
    if not float(value) > 0:
        raise InvalidValueError.of("max_grad_norm", "a number > 0", value, remedy)


def check_nonfinite(value: object) -> None:
    """Check what a NaN or infinity in a gradient is to do.

    Raises:
        InvalidValueError: If it is not one of the names.
    """
    if value not in get_args(NonFinite):
        raise InvalidValueError.of(
            "nonfinite",
            "one of " + ", ".join(map(repr, get_args(NonFinite))),
            value,
            "'propagate' is what torch does",
        )


def check_weight_decay_mode(mode: object) -> None:
    """Check the name of a weight decay mode.

    Raises:
        InvalidValueError: If it is neither None nor a known mode.
    """
    allowed = get_args(WeightDecayMode)
    if mode is not None and mode not in allowed:
        choices = ", ".join(map(repr, allowed))
        raise InvalidValueError.of(
            "weight_decay_mode",
            f"None or one of {choices}",
            mode,
            "None takes the convention's own way",
        )


def check_combination(
    convention: Convention,
    *,
    dampening: float,
    nesterov: bool,
    nu: float | None,
) -> None:
    """Refuse what a convention has no place for.

    Raises:
        InvalidUseError: If no optimizer runs the convention.
        InvalidValueError: If Nesterov's method, dampening or ν is asked of a rule without it, or ν
            is not given to one that needs it.
    """
    if not convention.runs:
        raise InvalidUseError(
            f"convention {convention.name!r} is not run by SGD: {convention.obstacle}"
        )
    if nesterov and convention.nesterov == "never":
        raise InvalidValueError.of(
            "nesterov",
            f"False for convention {convention.name!r}, which has no Nesterov form",
            nesterov,
            "take 'torch', 'caffe', 'sutskever' or 'bengio'",
        )
    if dampening != 0 and convention.gain != "1-dampening":
        raise InvalidValueError.of(
            "dampening",
            f"0 for convention {convention.name!r}, whose gain is {convention.gain}",
            dampening,
            "take convention='torch', or multiply lr by 1 - dampening",
        )
    check_nu(convention, nu)


def check_nu(convention: Convention, nu: float | None) -> None:
    """Refuse a ν where there is no place for it, and none where it is needed.

    Raises:
        InvalidValueError: If it is so.
    """
    if nu is not None and convention.look_ahead != "nu":
        raise InvalidValueError.of(
            "nu",
            f"None for convention {convention.name!r}, which has no ν",
            nu,
            "take convention='qhm'",
        )
    if nu is None and convention.look_ahead == "nu":
        raise InvalidValueError.of(
            "nu",
            f"a number for convention {convention.name!r}",
            nu,
            "pass the buffer's share of the move, such as nu=0.7",
        )


def check_lr0(mode: str, lr0: Any) -> None:
    """Refuse to divide by a learning rate of 0.

    Raises:
        InvalidValueError: If the mode divides by lr0, and it is 0.
    """
    if mode in ("lr/lr0", "lr^2/lr0") and lr0 == 0:
        raise InvalidValueError.of(
            "lr",
            f"> 0 at construction with weight_decay_mode={mode!r}, which divides by it",
            lr0,
            "give the peak lr here and let a scheduler warm up from 0",
        )


def check_nesterov(
    convention: Convention, *, momentum: float, dampening: float, nesterov: bool
) -> None:
    """Refuse Nesterov's method without momentum, or with dampening, where its framework does.

    Raises:
        InvalidValueError: If it is so.
    """
    if convention.nesterov_check and nesterov and (momentum <= 0 or dampening != 0):
        raise InvalidValueError(
            "Nesterov momentum requires a momentum and zero dampening: got "
            f"momentum={momentum!r}, dampening={dampening!r} with nesterov=True; pass a "
            "momentum such as 0.9 and no dampening"
        )
