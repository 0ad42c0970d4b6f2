"""The heart: a convention and its hyperparameters become seven coefficients.

Every convention's step is one linear recurrence in the parameter p and one buffer b:

    d = g + coupled_decay * p
    b = retain * b + gain * d
    u = buffer_weight * b + gradient_weight * d
    p = keep * p + step * u

The functions here are plain arithmetic. They take floats, fractions and symbols alike, compare
with nothing but zero, and import neither torch nor numpy.
"""

from dataclasses import dataclass
from typing import Any, Literal

from sgdm.convention import Convention
from sgdm.hyperparameters import Hyperparameters

__all__ = [
    "Coefficients",
    "coefficients",
    "first_step_differs",
    "iterate_weight",
    "look_ahead_weight",
    "needs_closure",
    "stores_look_ahead",
    "uses_nesterov",
]

Buffer = Literal["none", "frozen", "first", "running"]


@dataclass(frozen=True, slots=True)
class Coefficients:
    """The step that an engine runs, in the notation of this module.

    Attributes:
        coupled_decay: Weight of p in d.
        retain: Weight of the old buffer in the new one.
        gain: Weight of d in the buffer.
        buffer_weight: Weight of the new buffer in u.
        gradient_weight: Weight of d in u.
        keep: Weight of the old p in the new one; below 1 it is decoupled decay.
        step: Weight of u in the new p.
        buffer: What happens to b. "none": there is none. "frozen": there is one and the step
            neither reads nor writes it. "first": it is created as gain * d. "running": it is
            read and written.
    """

    coupled_decay: Any
    retain: Any
    gain: Any
    buffer_weight: Any
    gradient_weight: Any
    keep: Any
    step: Any
    buffer: Buffer


def uses_nesterov(convention: Convention, h: Hyperparameters) -> bool:
    """Whether this step looks ahead."""
    return convention.nesterov == "always" or (convention.nesterov == "optional" and h.nesterov)


def coefficients(convention: Convention, h: Hyperparameters, *, first: bool) -> Coefficients:
    """Return the seven coefficients of one step.

    Args:
        convention: The rule.
        h: The hyperparameters of this step.
        first: Whether the buffer has seen no gradient yet (each parameter on its own).

    Returns:
        The coefficients, of the arithmetic type of `h`.

    Example:
        >>> from sgdm import Hyperparameters, coefficients, get_convention
        >>> h = Hyperparameters(lr=0.5, momentum=0.75)
        >>> c = coefficients(get_convention("bengio"), h, first=False)
        >>> c.retain, c.gain, c.buffer_weight, c.gradient_weight, c.step
        (0.75, -0.375, 1, -0.5, 1)
    """
    sign = 1 if convention.sign == "gradient" else -1
    inside, outside = (h.lr, 1) if convention.lr == "inside" else (1, h.lr)
    coupled_decay, keep = _decay(convention, h)

    if convention.momentum_zero == "freeze" and h.momentum == 0:
        return Coefficients(
            coupled_decay=coupled_decay,
            retain=1,
            gain=0,
            buffer_weight=0,
            gradient_weight=sign * inside,
            keep=keep,
            step=-sign * outside,
            buffer="none" if first else "frozen",
        )

    damped = 1 - h.dampening if convention.gain == "1-dampening" else 1
    gain = sign * inside * (1 if first and convention.first == "copy" else damped)
    step = -sign * outside
    if not uses_nesterov(convention, h):
        buffer_weight, gradient_weight = 1, 0
    elif convention.momentum == "next":
        # The buffer is r = μ_{t+1}·v: the whole new v is scaled, and r itself is the move ahead.
        gain = h.momentum * gain
        buffer_weight, gradient_weight = 1, sign * inside
    elif convention.stores == "iterate":
        # p stands at Θ = θ + μ·v while the gradient is taken, and Θ - ε·d is the next θ.
        buffer_weight, gradient_weight, step = 0, 1, -h.lr
    else:
        buffer_weight, gradient_weight = h.momentum, sign * inside
    return Coefficients(
        coupled_decay=coupled_decay,
        retain=h.momentum,
        gain=gain,
        buffer_weight=buffer_weight,
        gradient_weight=gradient_weight,
        keep=keep,
        step=step,
        buffer="first" if first else "running",
    )


def _decay(convention: Convention, h: Hyperparameters) -> tuple[Any, Any]:
    """Return (coupled_decay, keep)."""
    mode = h.weight_decay_mode or convention.weight_decay
    if mode == "coupled":
        return h.weight_decay, 1
    # With lr = 0 nothing decays, whatever the mode: a step that must not move p does not.
    if h.weight_decay == 0 or h.lr == 0:
        return 0, 1
    if mode == "lr":
        return 0, 1 - h.lr * h.weight_decay
    if mode == "lr/lr0":
        return 0, 1 - h.lr / h.lr0 * h.weight_decay
    assert mode == "absolute"
    return 0, 1 - h.weight_decay


def first_step_differs(convention: Convention, h: Hyperparameters) -> bool:
    """Whether a first step is more than an ordinary one from a buffer of zeros.

    Where it is, "first step not yet done" is part of the state.
    """
    first, later = (coefficients(convention, h, first=flag).gain for flag in (True, False))
    return bool(first != later)


def needs_closure(convention: Convention, h: Hyperparameters) -> bool:
    """Whether the gradient is taken at another point than the stored one."""
    return convention.stores == "iterate" and uses_nesterov(convention, h)


def stores_look_ahead(convention: Convention, h: Hyperparameters) -> bool:
    """Whether the stored point is Θ, the look-ahead point of another one, θ."""
    return convention.stores == "look-ahead" and uses_nesterov(convention, h)


def look_ahead_weight(convention: Convention, h: Hyperparameters) -> Any:
    """Return w such that the gradient is taken at p + w*b; 0 where it is taken at p."""
    if needs_closure(convention, h):
        outside = h.lr if convention.lr == "outside" else 1
        return outside * h.momentum if convention.sign == "step" else -outside * h.momentum
    return 0


def iterate_weight(convention: Convention, h: Hyperparameters) -> Any:
    """Return w such that θ = p - w*b after a step with `h`; 0 where p is θ itself.

    Θ_{t+1} = θ_{t+1} + step * buffer_weight * b_{t+1}: without the momentum part of its last step
    the stored point is the one that gradient descent from Θ_t reached.
    """
    if not stores_look_ahead(convention, h):
        return 0
    c = coefficients(convention, h, first=False)
    return c.step * c.buffer_weight
