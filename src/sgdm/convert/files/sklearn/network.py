"""A pickled network of scikit-learn: its arrays by name, and what its optimizer is set to."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from sgdm.convert.checkpoint import Stored, broken, opened
from sgdm.convert.files.sklearn.arrays import Array, array_of, number_of
from sgdm.convert.files.sklearn.records import from_pickle
from sgdm.convert.inert_pickle import Inert
from sgdm.convert.layout import shape_in_torch, to_torch
from sgdm.convert.not_understood import NotUnderstood
from sgdm.convert.raw import read_tensor
from sgdm.errors import FileError

__all__ = ["Network", "open_network"]

_ESTIMATORS = ("MLPClassifier", "MLPRegressor")


@dataclass(frozen=True, slots=True)
class Network:
    """A fitted estimator, open.

    Attributes:
        path: The file.
        file: The same, open.
        arrays: Parameter and velocity by the parameter's name.
        hyperparameters: Of the optimizer.
        early_stopping: Whether the parameters are those of the best epoch, not of the last.
        schedule: Of the learning rate; "" for one that is no text.
        remarks: What else matters to a run that goes on.
    """

    path: Path
    file: BufferedReader
    arrays: dict[str, tuple[Array, Array | None]]
    hyperparameters: dict[str, Any]
    early_stopping: bool
    schedule: str
    remarks: list[str]

    def stored(self, array: Array) -> Stored:
        """Return an array, to be read when it is asked for."""
        return Stored(shape_in_torch(array.shape, "kernel"), array.dtype, lambda: self._read(array))

    def broken(self, place: str, problem: str, remedy: str = "take an intact copy") -> FileError:
        """Return the error of this file."""
        return broken(self.path, place, problem, remedy)

    def _read(self, array: Array) -> Tensor:
        # Of two axes, columns first is as torch has it.
        shape = array.shape[::-1] if array.columns_first else array.shape
        part = (array.block.start, array.block.start + array.block.size)
        tensor = read_tensor(self.file, self.path, [part], shape, array.dtype)
        return tensor if array.columns_first else to_torch(tensor, "kernel")


@contextmanager
def open_network(path: Path) -> Generator[Network]:
    """Open a pickled estimator and read all but its arrays.

    Raises:
        FileError: If it cannot be read, or holds something else.
    """
    with opened(path, "a pickled estimator") as file:
        place = "pickle"
        try:
            attributes = _attributes(from_pickle(file))
            optimizer = _optimizer(attributes)
            place = "coefs_ and intercepts_"
            arrays = _arrays(attributes, optimizer)
            place = "_optimizer"
            schedule = attributes.get("learning_rate")
            network = Network(
                path=path,
                file=file,
                arrays=arrays,
                hyperparameters=_hyperparameters(optimizer),
                early_stopping=attributes.get("early_stopping") is True,
                schedule=schedule if isinstance(schedule, str) else "",
                remarks=_remarks(attributes),
            )
        except NotUnderstood as error:
            raise broken(path, place, error.problem, error.remedy) from error
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise broken(path, place, f"cannot be read ({reason:.200})") from error
        yield network


def _attributes(content: Any) -> dict[str, Any]:
    """Return the attributes of an estimator fitted by SGD."""
    remedy = "pickle the MLPClassifier or MLPRegressor itself"
    if not isinstance(content, Inert):
        raise NotUnderstood(f"holds a {type(content).__name__}, no estimator", remedy)
    module, _, name = content.name.rpartition(" ")
    if not module.startswith("sklearn.neural_network") or name not in _ESTIMATORS:
        raise NotUnderstood(f"holds a {content.name[:100]}", remedy)
    if not isinstance(content.state, dict):
        raise NotUnderstood("the estimator has no attributes")
    attributes = cast("dict[str, Any]", content.state)
    solver = attributes.get("solver")
    if solver != "sgd":
        shown = repr(solver[:20]) if isinstance(solver, str) else f"a {type(solver).__name__}"
        raise NotUnderstood(
            f"the estimator's solver is {shown}, which keeps no velocities",
            'use one with solver="sgd"',
        )
    if not isinstance(attributes.get("coefs_"), list):
        raise NotUnderstood("the estimator is not fitted", "fit it, or partial_fit it once")
    return attributes


def _optimizer(attributes: dict[str, Any]) -> dict[str, Any]:
    optimizer = attributes.get("_optimizer")
    if optimizer is None:
        return {}
    if not isinstance(optimizer, Inert) or not optimizer.name.endswith(" SGDOptimizer"):
        raise NotUnderstood("its _optimizer is no SGDOptimizer", 'use one with solver="sgd"')
    if not isinstance(optimizer.state, dict):
        raise NotUnderstood("its _optimizer has no attributes")
    return cast("dict[str, Any]", optimizer.state)


def _arrays(
    attributes: dict[str, Any], optimizer: dict[str, Any]
) -> dict[str, tuple[Array, Array | None]]:
    """Return parameter and velocity by name: the velocities are in one list, intercepts last."""
    parameters: dict[str, Array] = {}
    for kind, axes in (("coefs_", 2), ("intercepts_", 1)):
        for number, value in enumerate(_list(attributes, kind)):
            parameters[f"{kind}/{number}"] = array = _array(f"{kind}[{number}]", value)
            if len(array.shape) != axes:
                raise NotUnderstood(f"{kind}[{number}] has the shape {array.shape}")
    if not optimizer:
        return {name: (array, None) for name, array in parameters.items()}
    values = _list(optimizer, "velocities")
    if len(values) != len(parameters):
        raise NotUnderstood(f"there are {len(parameters)}, and {len(values)} velocities")
    found: dict[str, tuple[Array, Array | None]] = {}
    for (name, array), value in zip(parameters.items(), values, strict=True):
        velocity = _array(f"the velocity of {name}", value)
        if (velocity.shape, velocity.dtype) != (array.shape, array.dtype):
            raise NotUnderstood(
                f"{name} is {array.dtype} {array.shape}, its velocity {velocity.dtype} "
                f"{velocity.shape}"
            )
        found[name] = (array, velocity)
    return found


def _array(place: str, value: Any) -> Array:
    try:
        return array_of(value)
    except NotUnderstood as error:
        raise NotUnderstood(f"{place}: {error.problem}", error.remedy) from error


def _list(owner: dict[str, Any], name: str) -> list[Any]:
    value = owner.get(name)
    if not isinstance(value, list) or not value:
        raise NotUnderstood(f"{name} is no list of arrays")
    return cast("list[Any]", value)


def _hyperparameters(optimizer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, attribute, kinds in (
        ("lr", "learning_rate", (int, float)),
        ("momentum", "momentum", (int, float)),
        ("nesterov", "nesterov", (bool, int)),
    ):
        if not optimizer:
            break
        value = number_of(optimizer.get(attribute))
        if not isinstance(value, kinds) or not math.isfinite(value):
            raise NotUnderstood(f"{attribute} is no finite number")
        found[name] = bool(value) if name == "nesterov" else float(value)
    return found


def _remarks(attributes: dict[str, Any]) -> list[str]:
    remarks: list[str] = []
    alpha = number_of(attributes.get("alpha"))
    if isinstance(alpha, int | float) and alpha != 0:
        remarks.append(
            f"alpha={alpha!r:.30}: a weight_decay of alpha/n on the coefs_ alone, with n examples "
            "in a batch"
        )
    seen = number_of(attributes.get("t_"))
    if isinstance(seen, int):
        remarks.append(f"t_={seen!r:.30} examples seen; the updates done are not counted")
    if attributes.get("early_stopping") is True:
        remarks.append(
            "early_stopping=True: the velocities, which are of the last epoch, and not of the best "
            "one as the coefs_ are"
        )
    schedule = attributes.get("learning_rate")
    if isinstance(schedule, str) and schedule != "constant":
        remarks.append(f"learning_rate={schedule[:30]!r}: the lr is that of the next update")
    return remarks
