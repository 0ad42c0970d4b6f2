"""A convention with the hyperparameters of the coming step: what a state is converted by."""

from dataclasses import dataclass
from fractions import Fraction

from sgdm.convention import Convention, WeightDecayMode
from sgdm.hyperparameters import check_combination, check_range, check_weight_decay_mode
from sgdm.identity import Side
from sgdm.system import Run

__all__ = ["Setting"]

# The range of each hyperparameter, by the name that it is known by.
_RANGES = {
    "lr": "lr",
    "momentum": "momentum",
    "last_momentum": "last_momentum",
    "dampening": "dampening",
    "weight_decay": "weight_decay",
    "nu": "nu",
    "lr0": "lr",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A convention with the hyperparameters of the coming step.

    Attributes:
        convention: The rule, corrected if it is.
        lr: ε_t.
        momentum: μ_t; it is taken to be the next one too.
        last_momentum: μ_{t-1}.
        dampening: τ.
        weight_decay: λ.
        nesterov: Whether Nesterov's method is asked for.
        nu: ν; None where the rule has none.
        lr0: ε_0.
        weight_decay_mode: How λ acts; None for the rule's own way.
    """

    convention: Convention
    lr: float | Fraction
    momentum: float | Fraction = 0.0
    last_momentum: float | Fraction | None = None
    dampening: float | Fraction = 0.0
    weight_decay: float | Fraction = 0.0
    nesterov: bool = False
    nu: float | Fraction | None = None
    lr0: float | Fraction | None = None
    weight_decay_mode: WeightDecayMode | None = None

    def check(self) -> None:
        """Refuse what no run can have.

        Raises:
            InvalidTypeError: If a hyperparameter is no number.
            InvalidValueError: If it is out of range, or the convention has no place for it.
            InvalidUseError: If no optimizer runs the convention.
        """
        for name, bounds in _RANGES.items():
            value = getattr(self, name)
            if value is not None:
                check_range(bounds, value)
        check_weight_decay_mode(self.weight_decay_mode)
        check_combination(
            self.convention,
            dampening=float(self.dampening),
            nesterov=self.nesterov and self.convention.nesterov != "always",
            nu=None if self.nu is None else float(self.nu),
        )

    @property
    def decays_by(self) -> str:
        """How λ acts."""
        return self.weight_decay_mode or self.convention.weight_decay

    @property
    def decays_in_its_own_way(self) -> bool:
        """Whether the convention's name says how λ acts, if it does."""
        return self.weight_decay == 0 or self.weight_decay_mode is None

    def side(self) -> Side:
        """Return what is compared."""
        return Side(
            convention=self.convention,
            nesterov=self.nesterov,
            dampening=self.dampening != 0,
            weight_decay=self.weight_decay != 0,
            weight_decay_mode=self.weight_decay_mode,
        )

    def run(self) -> Run:
        """Return the coming steps, exactly."""
        lr, momentum = _exact(self.lr), _exact(self.momentum)
        last = momentum if self.last_momentum is None else _exact(self.last_momentum)
        return Run(
            convention=self.convention,
            lr=lambda _: lr,
            momentum=lambda t: last if t < 0 else momentum,
            dampening=_exact(self.dampening),
            weight_decay=_exact(self.weight_decay),
            nesterov=self.nesterov,
            nu=None if self.nu is None else _exact(self.nu),
            lr0=_exact(self.lr if self.lr0 is None else self.lr0),
            weight_decay_mode=self.weight_decay_mode,
        )


def _exact(value: float | Fraction) -> Fraction:
    return Fraction(value)
