"""The settings of a training run: everything that decides its bits, and what is read back."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, cast, get_args, get_origin

from sgdm.convention import WeightDecayMode
from sgdm.errors import InvalidTypeError, InvalidValueError

__all__ = ["LrSchedule", "ModelKind", "MomentumSchedule", "Point", "Settings"]

ModelKind = Literal["linear", "mlp", "cnn"]
LrSchedule = Literal["constant", "steps", "cosine"]
MomentumSchedule = Literal["constant", "nesterov", "su-boyd-candes", "sutskever", "demon"]
Point = Literal["look-ahead", "iterate"]

_LARGEST = 1e30  # beyond it a float32 tensor cannot be multiplied


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a run is made of; the same settings give the same bits on the same machine.

    Attributes:
        data: "digits", or the path of a `.npz` file with arrays `x` and `y`.
        model: The network.
        convention: The rule of the optimizer.
        nesterov: Whether its Nesterov form is asked for.
        lr: ε, before its schedule.
        momentum: μ, before its schedule.
        dampening: τ.
        weight_decay: λ.
        weight_decay_mode: How λ acts; None for the convention's own way.
        lr_schedule: "constant"; "steps": multiplied by `lr_drop_factor` at each of `lr_drops`;
            "cosine": down towards 0 along half a wave.
        lr_drops: Where "steps" drops, in parts of the run between 0 and 1.
        lr_drop_factor: What a drop multiplies the learning rate by.
        warmup_epochs: Length of the linear warm-up, in epochs; its first step takes the first part.
        momentum_schedule: A schedule of `sgdm.schedule`; `momentum` is its cap or its start.
        epochs: Passes over the training data.
        batch_size: Examples a step.
        seed: Decides the split of the data, the initial weights and the batches.
        device: Where it runs, in torch's words.
        evaluate_at: The point that is evaluated: Θ as stored, or the iterate θ.
    """

    data: str = "digits"
    model: ModelKind = "cnn"
    convention: str = "torch"
    nesterov: bool = False
    lr: float = 0.1
    momentum: float = 0.9
    dampening: float = 0.0
    weight_decay: float = 1e-3
    weight_decay_mode: WeightDecayMode | None = None
    lr_schedule: LrSchedule = "cosine"
    lr_drops: tuple[float, ...] = (0.5,)
    lr_drop_factor: float = 0.1
    warmup_epochs: float = 0.0
    momentum_schedule: MomentumSchedule = "constant"
    epochs: int = 20
    batch_size: int = 32
    seed: int = 0
    device: str = "cpu"
    evaluate_at: Point = "look-ahead"

    def __post_init__(self) -> None:
        self._check_types()
        for field in fields(self):
            if get_origin(field.type) is Literal and getattr(self, field.name) not in get_args(
                field.type
            ):
                choices = ", ".join(get_args(field.type))
                raise InvalidValueError.of(
                    field.name, f"one of {choices}", getattr(self, field.name), "choose one of them"
                )
        self._check("epochs", 1 <= self.epochs <= 10**6, "between 1 and a million")
        self._check("batch_size", 1 <= self.batch_size <= 10**9, "between 1 and a thousand million")
        for name in ("lr", "momentum", "dampening", "weight_decay"):  # NaN is left to the optimizer
            self._check(name, not getattr(self, name) > _LARGEST, f"at most {_LARGEST:.0e}")
        self._check("seed", 0 <= self.seed < 2**40, "between 0 and 2**40")
        self._check("warmup_epochs", 0 <= self.warmup_epochs <= 10**6, "between 0 and a million")
        self._check("lr_drop_factor", 0 <= self.lr_drop_factor <= 1, "between 0 and 1")
        self._check(
            "lr_drops", all(0 <= drop <= 1 for drop in self.lr_drops), "parts of the run, 0 to 1"
        )

    def _check_types(self) -> None:
        """Settings are read back from a file: a "no" is no False, and 2.5 epochs are none."""
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for field in fields(self):
            value, kind = given[field.name], cast("Any", field.type)
            if kind is float:
                fits, wanted = _is_number(value), "a number"
            elif kind in (str, bool, int):
                fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
                wanted = f"of type {kind.__name__}"
            else:
                fits = field.name != "lr_drops" or all(map(_is_number, value))
                wanted = "a list of numbers"
            if not fits:
                raise InvalidTypeError.of(field.name, wanted, value, "pass such a value")

    def _check(self, name: str, fine: bool, requirement: str) -> None:
        if not fine:
            raise InvalidValueError.of(
                name, requirement, getattr(self, name), f"pass --{name.replace('_', '-')} again"
            )

    def as_plain(self) -> dict[str, Any]:
        """Return the settings as what JSON and a checkpoint can hold."""
        return {**asdict(self), "lr_drops": list(self.lr_drops)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """Read settings back.

        Raises:
            InvalidValueError: If a name is unknown or a value out of range.
        """
        unknown = plain.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise InvalidValueError.of(
                "settings", "those of this version of sgdm", sorted(unknown), "start a new run"
            )
        values = dict(plain)
        values["lr_drops"] = tuple(plain.get("lr_drops", ()))  # JSON has no tuples
        return cls(**values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
