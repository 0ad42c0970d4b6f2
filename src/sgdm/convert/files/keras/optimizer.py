"""What a Keras model's config.json says of its optimizer, and where in the file its momentum lies.

optimizer/vars/<i> are: 0 the iteration; 1 the learning rate, unless it is a schedule or a function;
then a moving average of every trainable variable, with use_ema; then its accumulated gradient, with
gradient_accumulation_steps; then its momentum, unless that is 0. Before the optimizer is built
only the first two are there.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sgdm.convert.files.keras.model import NotUnderstood

__all__ = ["ITERATION", "LR", "Optimizer", "read_optimizer"]

_VARS = "optimizer/vars/"
ITERATION, LR = f"{_VARS}0", f"{_VARS}1"


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Keras's SGD.

    Attributes:
        hyperparameters: Its momentum, nesterov and weight_decay.
        lr: The place of its learning rate; None where it has a schedule or a function.
        accumulated: Iterations to an update.
        copies: Variables of its own that it has of every trainable variable, before the momentum.
        remarks: What is in the file besides.
    """

    hyperparameters: dict[str, Any]
    lr: str | None
    accumulated: int
    copies: int
    remarks: list[str]

    def momentums(self, datasets: Collection[str], count: int) -> list[str]:
        """Return the places of the momentum of every trainable variable; [] if there is none.

        Args:
            datasets: The paths in the HDF5 file.
            count: Of trainable variables.

        Raises:
            NotUnderstood: If the optimizer is of another number of them.
        """
        held = {path for path in datasets if path.startswith(_VARS)}
        first = 2 if self.lr else 1
        own = self.copies + bool(self.hyperparameters["momentum"])
        if held == {f"{_VARS}{i}" for i in range(first)}:
            return []
        if held != {f"{_VARS}{i}" for i in range(first + own * count)}:
            raise NotUnderstood(
                f"the optimizer has {len(held)} variables, expected {first + own * count} with the "
                f"{count} trainable variables of the model",
                "compile the model again after a change of what is trainable, and save it",
            )
        start = first + self.copies * count
        return [f"{_VARS}{i}" for i in range(start, first + own * count)]


def read_optimizer(model: Mapping[str, Any]) -> Optimizer | None:
    """Return the optimizer that the model is compiled with; None if it is not compiled.

    Raises:
        NotUnderstood: If it is another one than SGD.
    """
    compiled = model.get("compile_config")
    if not compiled:
        return None
    kind, config = compiled["optimizer"]["class_name"], compiled["optimizer"]["config"]
    custom = compiled["optimizer"].get("registered_name") not in (None, "SGD")
    if kind != "SGD" or custom or not compiled["optimizer"]["module"].startswith("keras."):
        raise NotUnderstood(f"its optimizer is {kind}", "only Keras's SGD can be converted")
    lr = config["learning_rate"]
    accumulated = config.get("gradient_accumulation_steps") or 1
    return Optimizer(
        hyperparameters={
            "momentum": _number("momentum", config["momentum"]),
            "nesterov": bool(config["nesterov"]),
            "weight_decay": _number("weight_decay", config.get("weight_decay") or 0.0),
        },
        lr=LR if isinstance(lr, (int, float)) else None,
        accumulated=max(1, int(_number("gradient_accumulation_steps", accumulated))),
        copies=bool(config.get("use_ema")) + (accumulated != 1),
        remarks=_remarks(config),
    )


def _remarks(config: Mapping[str, Any]) -> list[str]:
    remarks: list[str] = []
    if isinstance(lr := config["learning_rate"], Mapping):
        remarks.append(f"the learning rate is not a number but {lr.get('class_name')}")
    if config.get("use_ema"):
        remarks.append("the moving average of every parameter (use_ema)")
    if config.get("gradient_accumulation_steps"):
        remarks.append(
            f"gradients accumulated over {config['gradient_accumulation_steps']} iterations"
        )
    if config.get("weight_decay"):
        remarks.append("what exclude_from_weight_decay leaves out, which Keras does not save")
    remarks += [
        f"{name}={config[name]}"
        for name in ("clipnorm", "global_clipnorm", "clipvalue", "loss_scale_factor")
        if config.get(name)
    ]
    return remarks


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**31:
        raise NotUnderstood(f"{name} is {value!r:.100}", "save the model again with a valid one")
    return value
