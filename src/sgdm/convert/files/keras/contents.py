"""What a Keras file holds: the variables of its model, the momentum of each, two numbers."""

from pathlib import Path
from typing import Any

from torch import Tensor

from sgdm.convert.checkpoint import Stored, broken
from sgdm.convert.files.keras.archive import Source
from sgdm.convert.files.keras.model import NotUnderstood, list_variables
from sgdm.convert.files.keras.optimizer import ITERATION, LR, Optimizer, read_optimizer
from sgdm.convert.hdf5 import Dataset, find_datasets, read_dataset
from sgdm.convert.layout import Layout, shape_in_torch, to_torch

__all__ = ["NEEDS_CONFIG", "Contents"]

NEEDS_CONFIG = "give the .keras file of the same model, as weights to read and template to write"


class Contents:
    """The variables of a model, and where each lies.

    Attributes:
        source: The file with the tensors.
        datasets: Of the file, by their paths.
        variables: In the order of the model's layers.
        optimizer: What config.json says of it; None where there is none.
        momentums: The place of a variable's momentum, by the variable's.
        lr: The place of the learning rate; None where there is none.
    """

    def __init__(self, source: Source, config: dict[str, Any] | None, config_path: Path) -> None:
        self.source = source
        self.datasets = find_datasets(
            source.file, source.path, start=source.start, size=source.size, place=source.place
        )
        self.optimizer: Optimizer | None = None
        self.momentums: dict[str, str] = {}
        place = source.place if config is None else "config.json"
        if config_path != source.path:
            place = f"{place} of {config_path}"
        try:
            self.variables = list_variables(config, self.datasets)
            self._check_depthwise()
            if config is None:
                self.lr = self._lr_alone()
            else:
                self.optimizer = read_optimizer(config)
                self.lr = self.optimizer.lr if self.optimizer else None
                self.momentums = self._pair_momentums()
        except NotUnderstood as error:
            raise broken(source.path, place, error.problem, error.remedy) from error
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            problem = f"it is not as Keras 3 writes it ({error!r:.100})"
            raise broken(source.path, place, problem) from error
        if not self.variables:
            raise broken(source.path, source.place, "no variable of a layer is in it")

    def stored(self, place: str | None, layout: Layout) -> Stored | None:
        """Return the tensor at a place, to be read when it is asked for."""
        if place is None:
            return None
        dataset = self.datasets[place]
        return Stored(
            shape_in_torch(dataset.shape, layout),
            dataset.dtype,
            lambda: to_torch(self._read(dataset), layout),
        )

    def hyperparameters(self) -> dict[str, Any]:
        """Return the learning rate of the file, and what the optimizer's configuration says."""
        own = self.optimizer.hyperparameters if self.optimizer else {}
        if self.lr is None:
            return own
        return {"lr": self._read(self.number_at(self.lr, integer=False)).item(), **own}

    def steps(self) -> int | None:
        """Return the number of updates done."""
        if ITERATION not in self.datasets:
            return None
        iteration = int(self._read(self.number_at(ITERATION, integer=True)).item())
        return iteration // (self.optimizer.accumulated if self.optimizer else 1)

    def number_at(self, place: str, *, integer: bool) -> Dataset:
        """Return the dataset at a place, which must be one number."""
        dataset = self.datasets[place]
        if dataset.shape or dataset.dtype.is_floating_point == integer:
            problem = f"it is {dataset.dtype} {dataset.shape}, not one number"
            raise broken(self.source.path, place, problem)
        return dataset

    def _read(self, dataset: Dataset) -> Tensor:
        return read_dataset(self.source.file, self.source.path, dataset)

    def _check_depthwise(self) -> None:
        """Refuse a depthwise kernel without channels and multiplier to bring together."""
        for variable in self.variables:
            shape = self.datasets[variable.place].shape
            if variable.layout == "depthwise" and len(shape) < 3:
                raise NotUnderstood(f"{variable.name} has the shape {shape}", "take an intact copy")

    def _lr_alone(self) -> str | None:
        """Return the place of the learning rate, if momentum without config.json is not there."""
        held = {path for path in self.datasets if path.startswith("optimizer/")}
        if held - {ITERATION, LR} or (LR in held and self.datasets[LR].shape):
            raise NotUnderstood(
                "it does not say which momentum belongs to which variable", NEEDS_CONFIG
            )
        return LR if LR in held else None

    def _pair_momentums(self) -> dict[str, str]:
        """Return where the momentum of each variable lies, having compared their shapes."""
        if self.optimizer is None:
            return {}
        trainable = [variable for variable in self.variables if variable.trainable]
        places = self.optimizer.momentums(self.datasets, len(trainable))
        found: dict[str, str] = {}
        for variable, place in zip(trainable, places, strict=False):
            mine, its = self.datasets[variable.place], self.datasets[place]
            if (mine.shape, mine.dtype) != (its.shape, its.dtype):
                raise NotUnderstood(
                    f"{place} is {its.dtype} {its.shape}, but {variable.name} is {mine.dtype} "
                    f"{mine.shape}",
                    "give the config.json of this very model",
                )
            found[variable.place] = place
        return found
