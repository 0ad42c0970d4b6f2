"""A convention of SGD with momentum, as data: one frozen record whose fields are the axes.

Frameworks write "SGD with momentum 0.9" and mean different recurrences. They differ along few
axes, and a `Convention` is a point on them. `recurrence.py` turns it into numbers;
`frameworks.py` holds the table. Nothing here is inherited and nothing asks for a name.
"""

from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin

from sgdm.errors import InvalidValueError

__all__ = ["Convention", "WeightDecayMode"]

WeightDecayMode = Literal["coupled", "lr", "lr/lr0", "absolute"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """One rule of SGD with momentum, placed on the axes on which such rules differ.

    In the equations below d is the gradient (with coupled decay), v the buffer, θ or Θ the
    stored parameter, ε the learning rate, μ the momentum and τ the dampening.

    Attributes:
        name: The name a user types, in lower case.
        title: What it is, in one line.
        lr: Where ε stands. "outside": it multiplies the buffer when θ moves, so a changed ε acts
            on the whole history at once. "inside": it multiplies the gradient when it enters the
            buffer, so the history keeps the ε it came with.
        sign: The buffer points along the "gradient" (subtracted from θ) or along the "step"
            (added to θ).
        gain: What the gradient is multiplied by, besides ε, on its way into the buffer: "one" or
            "1-dampening".
        first: What a buffer is after the first gradient of its parameter. "copy": that gradient,
            undamped. "zero": one ordinary step from a buffer of zeros.
        nesterov: Whether the rule looks ahead: "never", when asked ("optional"), or "always".
        nesterov_check: Refuse `nesterov=True` at construction unless momentum > 0 and
            dampening = 0, as torch does.
        stores: With Nesterov's method, which point the parameter is between steps: the
            "look-ahead" point Θ, where the gradient is taken, or the "iterate" θ, which needs a
            closure to be moved to Θ and back.
        momentum: Which momentum step t is given: the "current" μ_t, or the "next" one μ_{t+1}. With
            "next" the buffer holds r = μ_{t+1}·v, the move ahead itself, and so remembers no μ.
        momentum_zero: What μ = 0 does: "freeze" leaves the buffer alone and steps without it,
            "write" runs the ordinary recurrence.
        weight_decay: How `weight_decay` acts unless told otherwise: "coupled" (d = g + λθ),
            or decoupled, keeping θ·(1 - ελ) ("lr"), θ·(1 - (ε/ε_0)λ) ("lr/lr0"),
            θ·(1 - λ) ("absolute").
        sparse: Whether the rule is defined for sparse gradients.
        equations: The rule as its source prints it.
        source: Where it is published or implemented.

    Raises:
        InvalidValueError: If an axis has an unknown value or two axes contradict each other.

    Example:
        >>> from sgdm import get_convention
        >>> get_convention("caffe").lr
        'inside'
    """

    name: str
    title: str
    lr: Literal["outside", "inside"]
    sign: Literal["gradient", "step"]
    gain: Literal["one", "1-dampening"] = "one"
    first: Literal["copy", "zero"] = "zero"
    nesterov: Literal["never", "optional", "always"] = "never"
    nesterov_check: bool = False
    stores: Literal["look-ahead", "iterate"] = "look-ahead"
    momentum: Literal["current", "next"] = "current"
    momentum_zero: Literal["freeze", "write"] = "write"
    weight_decay: WeightDecayMode = "coupled"
    sparse: bool = False
    equations: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            if get_origin(field.type) is Literal:
                allowed, value = get_args(field.type), getattr(self, field.name)
                if value not in allowed:
                    choices = " or ".join(map(repr, allowed))
                    raise InvalidValueError.of(field.name, choices, value, "choose one of them")
        if not self.name or self.name != self.name.strip().lower():
            raise InvalidValueError.of(
                "name", "a word in lower case", self.name, "it is what users will type"
            )
        if self.momentum == "next" and self.nesterov != "always":
            raise self._contradiction(
                "momentum",
                "nesterov",
                "a buffer that holds μ_{t+1}·v moves θ only by looking ahead",
            )
        if self.momentum == "next" and self.stores == "iterate":
            raise self._contradiction(
                "momentum", "stores", "the next momentum is needed to store the look-ahead point"
            )
        if self.momentum == "next" and self.momentum_zero == "freeze":
            raise self._contradiction(
                "momentum", "momentum_zero", "μ_{t+1} = 0 must set the move ahead to zero"
            )
        if self.stores == "iterate" and self.nesterov == "never":
            raise self._contradiction(
                "stores", "nesterov", "without Nesterov's method there is one point only"
            )

    def _contradiction(self, first: str, second: str, reason: str) -> InvalidValueError:
        """Name two axes that exclude each other, and why."""
        a, b = getattr(self, first), getattr(self, second)
        return InvalidValueError(
            f"convention {self.name!r}: {first}={a!r} contradicts {second}={b!r}: {reason}; "
            f"change one of the two"
        )
