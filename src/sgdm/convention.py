"""A convention of SGD with momentum, as data: one frozen record whose fields are the axes.

Frameworks write "SGD with momentum 0.9" and mean different recurrences. They differ along few
axes, and a `Convention` is a point on them. `recurrence.py` turns it into numbers;
`frameworks/` holds the table. Nothing here is inherited and nothing asks for a name.
"""

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Literal, NamedTuple, get_args, get_origin

from sgdm.errors import InvalidValueError

__all__ = ["DESCRIPTION", "Convention", "WeightDecayMode", "with_momentum_correction"]

# The fields in which a row speaks of itself; all others are axes.
DESCRIPTION = (
    "name",
    "title",
    "aliases",
    "equations",
    "versions",
    "source",
    "quirks",
    "proof",
    "obstacle",
)

WeightDecayMode = Literal["coupled", "lr", "lr/lr0", "lr^2/lr0", "absolute"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """One rule of SGD with momentum, placed on the axes on which such rules differ.

    In the equations below d is the gradient (with coupled decay), v the buffer, θ or Θ the
    stored parameter, ε the learning rate, μ the momentum and τ the dampening.

    Attributes:
        name: The name a user types, in lower case.
        title: What it is, in one line.
        aliases: Other names that people search for.
        lr: Where ε stands. "outside": it multiplies the buffer when θ moves, so a changed ε acts
            on the whole history at once. "inside": it multiplies the gradient when it enters the
            buffer, so the history keeps the ε it came with. "corrected": inside, and the buffer
            is multiplied by ε/ε_{t-1} before each step (Goyal's momentum correction); it runs as
            "outside" does, with v/ε for a buffer, so that no ε is divided by.
        sign: The buffer points along the "gradient" (subtracted from θ) or along the "step"
            (added to θ).
        gain: What the gradient is multiplied by, besides ε, on its way into the buffer: "one",
            "1-dampening" or "1-momentum", which the direct term of Nesterov's method has too.
        gain_at: Where it is multiplied: on the way into the "buffer", or, the whole buffer, when
            it makes the "move".
        first: What a buffer is after the first gradient of its parameter. "copy": that gradient,
            undamped. "zero": one ordinary step from a buffer of zeros.
        nesterov: Whether the rule looks ahead: "never", when asked ("optional"), or "always".
        nesterov_check: Refuse `nesterov=True` at construction unless momentum > 0 and
            dampening = 0, as torch does.
        look_ahead: What looking ahead moves by. "momentum": μv + d, Nesterov's method.
            "two steps": μ²v + (1+μ)d, one more step of momentum. "nu": νv + (1-ν)d,
            quasi-hyperbolic momentum.
        stores: With Nesterov's method, which point the parameter is between steps: the
            "look-ahead" point Θ, where the gradient is taken, or the "iterate" θ, which needs a
            closure to be moved to Θ and back.
        momentum: Which momentum step t decays the buffer by: the "current" μ_t; the "next" one
            μ_{t+1}, which is what it is given then, the buffer holding r = μ_{t+1}·v, the move
            ahead itself; or the "previous" one, that of the group's last step, because the
            framework scales its buffer at the end of a step.
        momentum_zero: What μ = 0 does: "freeze" leaves the buffer alone and steps without it,
            "write" runs the ordinary recurrence.
        lr_zero: What ε = 0 does: "run" the ordinary recurrence, "freeze" the buffer and the
            parameter, or "forget", which empties the buffer.
        weight_decay: How `weight_decay` acts unless told otherwise: "coupled" (d = g + λθ),
            or decoupled, keeping θ·(1 - ελ) ("lr"), θ·(1 - (ε/ε_0)λ) ("lr/lr0"),
            θ·(1 - (ε²/ε_0)λ) ("lr^2/lr0"), θ·(1 - λ) ("absolute"). Two are defects that were
            shipped: "buffer" leaves λθ out of the direct term of Nesterov's method, and "late"
            puts the λθ of the new θ into the buffer.
        sparse: Whether the rule is defined for sparse gradients.
        equations: The rule as its source prints it.
        versions: Which versions of the framework have the rule.
        source: Where it is published or implemented.
        quirks: What else the framework does, and what of it is not done here.
        proof: "recorded": trajectories of the real thing are in tests/conformance, and equal.
            "transcribed": the published update, written down literally, is. "none": neither was
            compared.
        obstacle: Why `SGD` cannot run the rule, and what to take instead; "" where it can.

    Raises:
        InvalidValueError: If an axis has an unknown value or two axes contradict each other.

    Example:
        >>> from sgdm import get_convention
        >>> get_convention("caffe").lr
        'inside'
    """

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    lr: Literal["outside", "inside", "corrected"]
    sign: Literal["gradient", "step"]
    gain: Literal["one", "1-dampening", "1-momentum"] = "one"
    gain_at: Literal["buffer", "move"] = "buffer"
    first: Literal["copy", "zero"] = "zero"
    nesterov: Literal["never", "optional", "always"] = "never"
    nesterov_check: bool = False
    look_ahead: Literal["momentum", "two steps", "nu"] = "momentum"
    stores: Literal["look-ahead", "iterate"] = "look-ahead"
    momentum: Literal["current", "next", "previous"] = "current"
    momentum_zero: Literal["freeze", "write"] = "write"
    lr_zero: Literal["run", "freeze", "forget"] = "run"
    weight_decay: Literal["coupled", "lr", "lr/lr0", "lr^2/lr0", "absolute", "buffer", "late"] = (
        "coupled"
    )
    sparse: bool = False
    equations: tuple[str, ...] = ()
    versions: str = ""
    source: str = ""
    quirks: tuple[str, ...] = ()
    proof: Literal["none", "transcribed", "recorded"] = "none"
    obstacle: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            if get_origin(field.type) is Literal:
                allowed, value = get_args(field.type), getattr(self, field.name)
                if value not in allowed:
                    choices = " or ".join(map(repr, allowed))
                    raise InvalidValueError.of(field.name, choices, value, "choose one of them")
        for name in (self.name, *self.aliases):
            if not name or name != name.strip().lower():
                raise InvalidValueError.of(
                    "name", "a word in lower case", name, "it is what users will type"
                )
        for rule in _CONTRADICTIONS:
            one, other = getattr(self, rule.axis), getattr(self, rule.other)
            if one in rule.values and other not in rule.allowed:
                raise InvalidValueError(
                    f"convention {self.name!r}: {rule.axis}={one!r} contradicts "
                    f"{rule.other}={other!r}: {rule.reason}; change one of the two"
                )

    @property
    def runs(self) -> bool:
        """Whether `SGD` runs the rule."""
        return not self.obstacle

    @property
    def correctable(self) -> bool:
        """Whether `correct_momentum` has something to correct: ε is inside the buffer."""
        return self.lr == "inside" and self.weight_decay != "late"


@cache
def with_momentum_correction(convention: Convention) -> Convention:
    """Return the convention with Goyal's momentum correction, v multiplied by ε/ε_{t-1}.

    Raises:
        InvalidValueError: If ε is not inside its buffer, or decay has a place there of its own.

    Reference:
        Goyal et al. 2017, Accurate, large minibatch SGD, section 3, remark 2.
    """
    if convention.correctable:
        return replace(convention, lr="corrected")
    reason = (
        "the decay of the new θ enters its buffer with ε"
        if convention.weight_decay == "late"
        else "its buffer holds no ε, so multiplying it by ε/ε_{t-1}, as some ports of Detectron to "
        "PyTorch do, would be wrong; what the correction is for is so already"
        if convention.lr == "outside"
        else "it corrects its momentum by itself"
    )
    raise InvalidValueError.of(
        "correct_momentum", f"False for convention {convention.name!r}", True, reason
    )


class _Contradiction(NamedTuple):
    """One axis with one of `values` leaves the other axis with one of `allowed`."""

    axis: str
    values: tuple[object, ...]
    other: str
    allowed: tuple[object, ...]
    reason: str


_CONTRADICTIONS = (
    _Contradiction(
        "momentum",
        ("next",),
        "nesterov",
        ("always",),
        "a buffer that holds μ_{t+1}·v moves θ only by looking ahead",
    ),
    _Contradiction(
        "momentum",
        ("next",),
        "stores",
        ("look-ahead",),
        "the next momentum is needed to store the look-ahead point",
    ),
    _Contradiction(
        "momentum",
        ("next",),
        "momentum_zero",
        ("write",),
        "μ_{t+1} = 0 must set the move ahead to zero",
    ),
    _Contradiction(
        "momentum",
        ("next",),
        "gain",
        ("one", "1-dampening"),
        "the gain of step t would need μ_t, and the rule is given μ_{t+1}",
    ),
    _Contradiction(
        "momentum",
        ("next",),
        "look_ahead",
        ("momentum",),
        "a buffer that holds μ_{t+1}·v looks ahead by that and nothing else",
    ),
    _Contradiction(
        "momentum",
        ("previous",),
        "nesterov",
        ("never",),
        "which momentum would look ahead is not defined",
    ),
    _Contradiction(
        "momentum",
        ("previous",),
        "momentum_zero",
        ("write",),
        "μ = 0 empties the buffer at the end of the step",
    ),
    _Contradiction(
        "stores",
        ("iterate",),
        "nesterov",
        ("optional", "always"),
        "without Nesterov's method there is one point only",
    ),
    _Contradiction(
        "stores",
        ("iterate",),
        "look_ahead",
        ("momentum",),
        "the closure is run at θ + μ·v",
    ),
    _Contradiction(
        "look_ahead",
        ("two steps", "nu"),
        "nesterov",
        ("optional", "always"),
        "a rule that never looks ahead does so by nothing",
    ),
    _Contradiction(
        "nesterov_check",
        (True,),
        "nesterov",
        ("optional",),
        "there is nothing to check where Nesterov's method is not asked for",
    ),
    _Contradiction(
        "gain_at",
        ("move",),
        "gain",
        ("1-momentum",),
        "a gain of one has no place, and dampening acts on the gradient",
    ),
    _Contradiction(
        "look_ahead",
        ("nu",),
        "lr",
        ("outside",),
        "the gradient beside the buffer would need an ε of its own",
    ),
    _Contradiction(
        "gain_at",
        ("move",),
        "nesterov",
        ("never",),
        "how the direct term would be scaled is not defined",
    ),
    _Contradiction(
        "weight_decay",
        ("buffer", "late"),
        "nesterov",
        ("always",),
        "it is about the direct term of Nesterov's method",
    ),
    _Contradiction(
        "weight_decay",
        ("buffer", "late"),
        "stores",
        ("look-ahead",),
        "the decayed point would not be where the gradient was taken",
    ),
    _Contradiction(
        "weight_decay",
        ("buffer", "late"),
        "look_ahead",
        ("momentum",),
        "it is about the direct term of Nesterov's method",
    ),
    _Contradiction(
        "weight_decay",
        ("buffer", "late"),
        "momentum",
        ("current",),
        "the decay in the buffer would be that of another step",
    ),
    _Contradiction(
        "weight_decay",
        ("buffer",),
        "gain",
        ("one", "1-dampening"),
        "the direct term is scaled too, and its decay would not be taken out",
    ),
    _Contradiction(
        "lr_zero",
        ("forget",),
        "first",
        ("zero",),
        "the step after an emptied buffer would be a first one",
    ),
    _Contradiction(
        "weight_decay",
        ("late",),
        "lr",
        ("inside",),
        "the decay of the new θ enters the buffer with ε",
    ),
    _Contradiction(
        "weight_decay",
        ("late",),
        "gain",
        ("one",),
        "how the decay in the buffer would be scaled is not defined",
    ),
)
