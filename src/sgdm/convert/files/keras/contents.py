"""What a Keras file holds: the variables of its model, the momentum of each, two numbers."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgdm.convert.checkpoint import Stored, broken, listed
from sgdm.convert.files.keras.archive import Source
from sgdm.convert.files.keras.model import Variable, list_variables
from sgdm.convert.files.keras.optimizer import ITERATION, LR, Optimizer, State, read_optimizer
from sgdm.convert.hdf5 import Dataset, find_datasets, read_dataset
from sgdm.convert.layout import Layout, shape_in_torch, to_torch
from sgdm.convert.not_understood import NotUnderstood
from sgdm.convert.raw import Patch, write_tensor

__all__ = ["NEEDS_CONFIG", "Contents"]

NEEDS_CONFIG = "give the .keras file of the same model, as weights to read and template to write"


class Contents:
    """The variables of a model, and where each lies.

    Attributes:
        source: The file with the tensors.
        datasets: Of the file, by their paths.
        variables: In the order of the model's layers.
        optimizer: What config.json says of it; None where there is none.
        states: The places of what the optimizer keeps of a variable, by the variable's.
        iteration: The place of the iteration; None where there is none.
        lr: The same of the learning rate.
    """

    def __init__(self, source: Source, config: dict[str, Any] | None, config_path: Path) -> None:
        self.source = source
        self.datasets = find_datasets(
            source.file, source.path, start=source.start, size=source.size, place=source.place
        )
        self.optimizer: Optimizer | None = None
        self.states: dict[State, dict[str, str]] = {}
        place = source.place if config is None else "config.json"
        if config_path != source.path:
            place = f"{place} of {config_path}"
        try:
            self.variables = list_variables(config, self.datasets)
            self._check_depthwise()
            if config is None:
                self.iteration, self.lr = self._numbers_alone()
            else:
                self.optimizer = read_optimizer(config)
                self.iteration, self.lr = self._numbers()
                self.states = self._states()
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
        return None if self.iteration is None else self._done(self.iteration)[0]

    def iterations(self, place: str, steps: int | None) -> int:
        """Return what is to stand at the place of the iteration.

        Args:
            place: That place.
            steps: Updates done; None for those of the file.
        """
        done = (self._done(place)[0] if steps is None else steps) * self._accumulated
        if done > torch.iinfo(self.number_at(place, integer=True).dtype).max:
            raise broken(self.source.path, place, f"{done} iterations do not fit", "check them")
        return done

    def remarks(self) -> list[str]:
        """Return what the file holds besides, a phrase each."""
        found = list(self.optimizer.settings) if self.optimizer else []
        if self.iteration is not None and (begun := self._done(self.iteration)[1]):
            found.append(f"an update begun: gradients of {begun} of {self._accumulated} iterations")
        return found

    def states_of(self, variable: Variable) -> dict[State, str]:
        """Return the places of what the optimizer keeps of a variable."""
        return {
            state: places[variable.place]
            for state, places in self.states.items()
            if variable.place in places
        }

    def patches(self, place: str, stored: Stored) -> Iterator[Patch]:
        """Yield what writes another tensor to a place."""
        for copy in self.optimizer.copies(place) if self.optimizer else [place]:
            start, length = self.datasets[copy].offset, self.datasets[copy].nbytes
            if length:
                yield Patch(start, start + length, partial(write_tensor, place, stored))

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

    @property
    def _accumulated(self) -> int:
        return self.optimizer.accumulated if self.optimizer else 1

    def _done(self, place: str) -> tuple[int, int]:
        """Return the updates done, and the gradients since."""
        iterations = int(self._read(self.number_at(place, integer=True)).item())
        return divmod(iterations, self._accumulated)

    def _numbers(self) -> tuple[str | None, str | None]:
        """Return the places of iteration and learning rate."""
        if self.optimizer is None:
            return None, None
        lr = self.optimizer.place(LR) if self.optimizer.has_lr else None
        return self.optimizer.place(ITERATION), lr

    def _numbers_alone(self) -> tuple[str | None, str | None]:
        """Return them, if momentum without config.json is not there."""
        iteration, lr = "optimizer/vars/0", "optimizer/vars/1"
        held = {path for path in self.datasets if path.startswith("optimizer/")}
        if held - {iteration, lr} or (lr in held and self.datasets[lr].shape):
            raise NotUnderstood(
                "it does not say which momentum belongs to which variable", NEEDS_CONFIG
            )
        return (iteration if iteration in held else None), (lr if lr in held else None)

    def _states(self) -> dict[State, dict[str, str]]:
        """Return where what the optimizer keeps lies, having compared the shapes."""
        if self.optimizer is None:
            return {}
        trainable = [variable for variable in self.variables if variable.trainable]
        found = self.optimizer.places(self.datasets, len(trainable))
        if found is None:
            raise self._another_number(self.optimizer, trainable)
        for places in found.values():
            for variable, place in zip(trainable, places, strict=True):
                mine, its = self.datasets[variable.place], self.datasets[place]
                if (mine.shape, mine.dtype) != (its.shape, its.dtype):
                    raise NotUnderstood(
                        f"{place} is {its.dtype} {its.shape}, but {variable.name} is {mine.dtype} "
                        f"{mine.shape}",
                        "give the config.json of this very model",
                    )
        return {
            state: {
                variable.place: place for variable, place in zip(trainable, places, strict=True)
            }
            for state, places in found.items()
        }

    def _another_number(self, optimizer: Optimizer, trainable: list[Variable]) -> NotUnderstood:
        """Return the refusal of an optimizer that has another number of variables."""
        held, count = optimizer.held(self.datasets), len(trainable)
        problem = (
            f"the optimizer has {held} variables, expected "
            f"{optimizer.first + len(optimizer.states) * count} with the {count} trainable "
            "variables of the model"
        )
        if frozen := self._without(optimizer, trainable):
            problem += f": it seems to be without {listed(frozen)}"
        return NotUnderstood(
            problem,
            "freeze layers and no single variables, which config.json does not say, compile the "
            "model again after a change of what is trainable, and save it",
        )

    def _without(self, optimizer: Optimizer, trainable: list[Variable]) -> list[str]:
        """Return which variables the shapes say it does not have; nothing if they do not."""
        places = map(optimizer.place, range(optimizer.first, optimizer.held(self.datasets)))
        shapes = [self.datasets[place].shape for place in places if place in self.datasets]
        count, odd = divmod(len(shapes), len(optimizer.states) or 1)
        left = iter(shapes[:count])
        frozen: list[str] = []
        its = next(left, None)
        for variable in trainable:
            if self.datasets[variable.place].shape == its:
                its = next(left, None)
            else:
                frozen.append(variable.name)
        return frozen if its is None and not odd else []
