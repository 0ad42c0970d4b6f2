"""What a Keras model's config.json says of its optimizer, and where in the file its state lies.

optimizer/vars/<i> are: 0 the iteration; 1 the learning rate, unless it is a schedule or a function;
then a moving average of every trainable variable, with use_ema; then its accumulated gradient, with
gradient_accumulation_steps; then its momentum, unless that is 0. Before the optimizer is built
only the first two are there. Those of a LossScaleOptimizer are the iteration, the learning rate,
two numbers of its own, and then the inner optimizer's, which are in
optimizer/inner_optimizer/vars/<i> too.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from sgdm.convert.checkpoint import shown
from sgdm.convert.not_understood import NotUnderstood

__all__ = ["ITERATION", "LR", "Optimizer", "State", "read_optimizer"]

_VARS, _INNER = "optimizer/vars/", "optimizer/inner_optimizer/vars/"
_BEFORE_INNER = 4
ITERATION, LR = 0, 1

_OTHER_SETTINGS = (
    "clipnorm",
    "global_clipnorm",
    "clipvalue",
    "loss_scale_factor",
    "ema_overwrite_frequency",
)

# What an optimizer keeps of a trainable variable.
State = Literal["average", "gradient", "momentum"]


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Keras's SGD.

    Attributes:
        hyperparameters: Its momentum, nesterov and weight_decay.
        has_lr: Whether its learning rate is a number, and not a schedule or a function.
        accumulated: Iterations to an update.
        states: What it has of every trainable variable, in that order.
        settings: What else it is set to, a phrase each.
        scaled: Whether it is within a LossScaleOptimizer.
    """

    hyperparameters: dict[str, Any]
    has_lr: bool
    accumulated: int
    states: list[State]
    settings: list[str]
    scaled: bool = False

    @property
    def first(self) -> int:
        """How many numbers are before what it keeps of the variables."""
        return 1 + self.has_lr

    def place(self, number: int) -> str:
        """Return the path of one of its variables in the HDF5 file."""
        return f"{_INNER if self.scaled else _VARS}{number}"

    def copies(self, place: str) -> list[str]:
        """Return the paths that hold the same variable, that one first."""
        if not place.startswith(_INNER):
            return [place]
        return [place, f"{_VARS}{int(place.removeprefix(_INNER)) + _BEFORE_INNER}"]

    def held(self, datasets: Collection[str]) -> int:
        """Return how many variables the file has of it, its numbers among them."""
        prefix = self.place(0)[:-1]
        return sum(path.startswith(prefix) for path in datasets)

    def places(self, datasets: Collection[str], count: int) -> dict[State, list[str]] | None:
        """Return where what it keeps of every trainable variable lies; nothing before it is built.

        Args:
            datasets: The paths in the HDF5 file.
            count: Of trainable variables.

        Returns:
            None if it has another number of them.
        """
        end = self.first + len(self.states) * count
        held = self.held(datasets)
        if held not in (self.first, end) or any(self.place(i) not in datasets for i in range(held)):
            return None
        if held == self.first:
            return {}
        return {
            state: [self.place(self.first + i * count + j) for j in range(count)]
            for i, state in enumerate(self.states)
        }


def read_optimizer(model: Mapping[str, Any]) -> Optimizer | None:
    """Return the optimizer that the model is compiled with; None if it is not compiled.

    Raises:
        NotUnderstood: If it is another one than SGD.
    """
    compiled = model.get("compile_config")
    if not compiled:
        return None
    given = compiled["optimizer"]
    scaled = given["class_name"] == "LossScaleOptimizer" and _is_keras_s(given)
    if scaled:
        given = given["config"]["inner_optimizer"]
    if given["class_name"] != "SGD" or not _is_keras_s(given):
        raise NotUnderstood(
            f"its optimizer is {given['class_name']:.100}", "only Keras's SGD can be converted"
        )
    config = given["config"]
    accumulated = int(_number(config, "gradient_accumulation_steps"))
    settings = _settings(config)
    if scaled:
        settings.append("the scale of the loss (LossScaleOptimizer)")
    kept: dict[State, object] = {
        "average": config.get("use_ema"),
        "gradient": accumulated,
        "momentum": config["momentum"],
    }
    return Optimizer(
        hyperparameters={
            "momentum": _number(config, "momentum"),
            "nesterov": bool(config["nesterov"]),
            "weight_decay": _number(config, "weight_decay"),
        },
        has_lr=isinstance(config["learning_rate"], (int, float)),
        accumulated=max(1, accumulated),
        states=[state for state, is_kept in kept.items() if is_kept],
        settings=settings,
        scaled=scaled,
    )


def _is_keras_s(given: Mapping[str, Any]) -> bool:
    known = given.get("registered_name") in (None, given["class_name"])
    return known and given["module"].startswith("keras.")


def _settings(config: Mapping[str, Any]) -> list[str]:
    settings: list[str] = []
    if isinstance(lr := config["learning_rate"], Mapping):
        kind = cast("dict[str, str]", lr)["class_name"]
        settings.append(f"the learning rate is not a number but {shown(kind)}")
    if config.get("use_ema"):
        settings.append("the moving average of every parameter (use_ema)")
    if accumulated := _number(config, "gradient_accumulation_steps"):
        settings.append(f"gradients accumulated over {accumulated:g} iterations")
    if config.get("weight_decay"):
        settings.append("what exclude_from_weight_decay leaves out, which Keras does not save")
    settings += [
        f"{name}={_number(config, name):g}" for name in _OTHER_SETTINGS if config.get(name)
    ]
    return settings


def _number(config: Mapping[str, Any], name: str) -> float:
    """Return a number of the configuration; 0 where it says nothing."""
    value = config.get(name)
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**31:
        raise NotUnderstood(f"{name} is {value!r:.100}", "save the model again with a valid one")
    return value
