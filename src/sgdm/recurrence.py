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
from typing import Any, Literal, NamedTuple

from sgdm.convention import Convention
from sgdm.errors import InvalidUseError, InvalidValueError
from sgdm.hyperparameters import Hyperparameters, check_lr0

__all__ = [
    "Coefficients",
    "buffer_scale",
    "coefficients",
    "first_step_differs",
    "iterate_weight",
    "look_ahead_weight",
    "makes_buffer",
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

    Raises:
        InvalidUseError: If the recurrence does not hold the rule; the text says what to take.
        InvalidValueError: If something would be divided by zero.

    Example:
        >>> from sgdm import Hyperparameters, coefficients, get_convention
        >>> h = Hyperparameters(lr=0.5, momentum=0.75)
        >>> c = coefficients(get_convention("bengio"), h, first=False)
        >>> c.retain, c.gain, c.buffer_weight, c.gradient_weight, c.step
        (0.75, -0.375, 1, -0.5, 1)
    """
    if convention.obstacle:
        raise InvalidUseError(
            f"convention {convention.name!r} has no coefficients: {convention.obstacle}"
        )
    sign = 1 if convention.sign == "gradient" else -1
    inside, outside = (h.lr, 1) if convention.lr == "inside" else (1, h.lr)
    decay = _decay(convention, h)
    stopped = convention.momentum_zero == "freeze" and h.momentum == 0
    if stopped or (convention.lr_zero == "freeze" and h.lr == 0):
        return Coefficients(
            coupled_decay=decay.coupled,
            retain=1,
            gain=0,
            buffer_weight=0,
            gradient_weight=sign * inside,
            keep=decay.keep,
            step=-sign * outside,
            buffer="none" if first else "frozen",
        )

    gain, step = sign * inside, -sign * outside
    if not (first and convention.first == "copy"):
        if convention.gain_at == "move":
            step = step * _gain(convention, h)
        else:
            gain = gain * _gain(convention, h)
    # Unit gain is a smaller ε, so it is the direct term's too; dampening is the buffer's alone.
    direct = gain if convention.gain == "1-momentum" else sign * inside
    retain = h.momentum
    if convention.momentum == "previous" and h.last_momentum is not None:
        retain = h.last_momentum
    if convention.momentum == "next":
        # The buffer is r = μ_{t+1}·v: the whole new v is scaled, and r itself is the move ahead.
        gain = h.momentum * gain
    if convention.lr_zero == "forget" and h.lr == 0:
        retain, gain = 0, 0
    if needs_closure(convention, h):
        # p stands at Θ = θ + μ·v while the gradient is taken, and Θ - ε·d is the next θ.
        buffer_weight, gradient_weight, step = 0, 1, -h.lr
    else:
        buffer_weight, gradient_weight = _move(convention, h, direct)
    if _mode(convention, h) == "late" and decay.coupled != 0:
        # v = μ·v ± ε·(g + λθ) with the new θ, solved for the old one.
        x = _late_factor(convention, h)
        retain, gain = retain * x, gain * (x - h.lr * h.weight_decay)
        buffer_weight, gradient_weight = buffer_weight / x, gradient_weight / x
    return Coefficients(
        coupled_decay=decay.coupled,
        retain=retain,
        gain=gain,
        buffer_weight=buffer_weight,
        gradient_weight=gradient_weight,
        keep=decay.keep,
        step=step,
        buffer="first" if first else "running",
    )


def _late_factor(convention: Convention, h: Hyperparameters) -> Any:
    factor = 1 - h.lr * h.weight_decay * h.momentum
    if factor == 0:
        raise InvalidValueError.of(
            "weight_decay",
            f"such that ε·λ·μ is not 1 with convention {convention.name!r}",
            h.weight_decay,
            "make lr, weight_decay or momentum smaller",
        )
    return factor


def _gain(convention: Convention, h: Hyperparameters) -> Any:
    """Return what the gradient is multiplied by, besides ε."""
    if convention.gain == "1-momentum":
        return 1 - h.momentum
    return 1 - h.dampening if convention.gain == "1-dampening" else 1


def _move(convention: Convention, h: Hyperparameters, direct: Any) -> tuple[Any, Any]:
    """Return the weights of the new buffer and of d in u."""
    if not uses_nesterov(convention, h):
        return 1, 0
    if convention.momentum == "next":
        return 1, direct
    if convention.look_ahead == "nu":
        return h.nu, (1 if convention.sign == "gradient" else -1) * (1 - h.nu)
    if convention.look_ahead == "two steps":
        return h.momentum * h.momentum, direct * (1 + h.momentum)
    return h.momentum, direct


def _mode(convention: Convention, h: Hyperparameters) -> str:
    return h.weight_decay_mode or convention.weight_decay


class _Decay(NamedTuple):
    coupled: Any
    keep: Any


def _decay(convention: Convention, h: Hyperparameters) -> _Decay:
    mode = _mode(convention, h)
    if mode in ("coupled", "late"):
        return _Decay(h.weight_decay, 1)
    if mode == "buffer":
        # d with λθ makes the direct term too: what that takes from θ is given back.
        return _Decay(h.weight_decay, 1 + h.lr * h.weight_decay)
    # With lr = 0 nothing decays, whatever the mode: a step that must not move p does not.
    if h.weight_decay == 0 or h.lr == 0:
        return _Decay(0, 1)
    check_lr0(mode, h.lr0)
    scale: Any = 1  # "absolute"
    if mode == "lr":
        scale = h.lr
    elif mode == "lr/lr0":
        scale = h.lr / h.lr0
    elif mode == "lr^2/lr0":
        scale = h.lr * h.lr / h.lr0
    return _Decay(0, 1 - scale * h.weight_decay)


def first_step_differs(convention: Convention, h: Hyperparameters) -> bool:
    """Whether a first step is more than an ordinary one from a buffer of zeros.

    Where it is, "first step not yet done" is part of the state.
    """
    if convention.first == "zero" or not makes_buffer(convention, h):
        return False
    return bool(_gain(convention, h) != 1)


def makes_buffer(convention: Convention, h: Hyperparameters) -> bool:
    """Whether a first step with this μ and some ε > 0 makes a buffer."""
    return convention.momentum_zero == "write" or h.momentum != 0


def needs_closure(convention: Convention, h: Hyperparameters) -> bool:
    """Whether the gradient is taken at another point than the stored one."""
    return convention.stores == "iterate" and uses_nesterov(convention, h)


def stores_look_ahead(convention: Convention, h: Hyperparameters) -> bool:
    """Whether the stored point is Θ, the look-ahead point of another one, θ.

    Quasi-hyperbolic momentum has no other point that it would make sense to evaluate.
    """
    ahead = convention.stores == "look-ahead" and convention.look_ahead != "nu"
    return ahead and uses_nesterov(convention, h)


def look_ahead_weight(convention: Convention, h: Hyperparameters) -> Any:
    """Return w such that the gradient is taken at p + w*b; 0 where it is taken at p."""
    if needs_closure(convention, h):
        outside = 1 if convention.lr == "inside" else h.lr
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
    if convention.look_ahead == "two steps":
        return c.step * (h.momentum + h.momentum * h.momentum)
    return c.step * c.buffer_weight


def buffer_scale(convention: Convention, h: Hyperparameters) -> Any:
    """Return how many times this module's b the framework's own buffer is, after a step with `h`.

    It is not 1 where b is kept in another scale, so that nothing is divided by.
    """
    scale = h.lr if convention.lr == "corrected" else 1
    return scale * h.momentum if convention.momentum == "previous" else scale
