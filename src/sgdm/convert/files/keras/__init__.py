"""Keras 3: `.keras` archives and `.weights.h5` files of models compiled with SGD.

A `.weights.h5` has no config.json. Its slots are named by their paths in it, and which momentum
belongs to which of them it does not say: one that has momentum is read with `weights` the `.keras`
file of the same model, and then as that is.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from sgdm.convert.checkpoint import Checkpoint, Slot, Stored, broken
from sgdm.convert.files.keras.archive import Block, open_source, write_archive, write_weights
from sgdm.convert.files.keras.contents import NEEDS_CONFIG, Contents
from sgdm.convert.files.keras.model import Variable
from sgdm.convert.files.keras.optimizer import ITERATION
from sgdm.convert.hdf5 import Dataset
from sgdm.convert.layout import described, from_torch, shape_in_torch
from sgdm.files import write_atomically

__all__ = ["read", "write"]

_CONVENTION = "keras3"


@contextmanager
def read(path: Path, weights: Path | None = None) -> Generator[Checkpoint]:
    """Yield what a `.keras` or `.weights.h5` file holds.

    Args:
        path: The file.
        weights: For a `.weights.h5`: the `.keras` file of the same model, for its config.json.
    """
    with open_source(path) as source:
        if weights is None:
            contents = Contents(source, source.config, path)
        else:
            with open_source(weights) as other:
                if other.config is None:
                    raise broken(weights, "file", "it has no config.json", NEEDS_CONFIG)
                contents = Contents(source, other.config, weights)
        yield Checkpoint(
            convention=_CONVENTION if contents.optimizer else None,
            slots=[
                Slot(
                    name=variable.name,
                    layout=described(variable.layout, len(contents.datasets[variable.place].shape)),
                    parameter=contents.stored(variable.place, variable.layout),
                    buffer=contents.stored(contents.momentums.get(variable.place), variable.layout),
                )
                for variable in contents.variables
            ],
            hyperparameters=contents.hyperparameters(),
            steps=contents.steps(),
            remarks=contents.optimizer.remarks if contents.optimizer else [],
        )


def write(path: Path, checkpoint: Checkpoint, template: Path | None = None) -> None:
    """Write a copy of a template, with other parameters and momentum in it.

    A buffer that is absent becomes zeros, which are what Keras starts with and the same to it.

    Args:
        path: What to write; ends in ".keras", or in ".h5" for its weights alone.
        checkpoint: Has every variable of the template's model, by its name there.
        template: A `.keras` file of the same model, compiled with the same SGD, its optimizer
            built. For parameters without momentum, a `.weights.h5` does too.
    """
    if template is None:
        raise broken(
            path,
            "template",
            "there is none, and Keras's files hold the model, which a checkpoint does not know",
            "give a .keras file of the same model, saved by Keras",
        )
    with open_source(template) as source:
        whole = path.suffix == ".keras"
        if not whole and path.suffix != ".h5":
            raise broken(path, "name", "it ends neither in .keras nor in .h5", "name it so")
        if whole and source.config is None:
            raise broken(template, "file", "it has no config.json", NEEDS_CONFIG)
        blocks = _blocks(Contents(source, source.config, template), checkpoint)
        copy = write_archive if whole else write_weights
        write_atomically(path, lambda file: copy(file, source, blocks))


def _blocks(contents: Contents, checkpoint: Checkpoint) -> list[Block]:
    """Return what is to be written where, having checked that all of it fits."""
    path = contents.source.path
    _check_rule(contents, checkpoint)
    slots = {slot.name: slot for slot in checkpoint.slots}
    names = {variable.name for variable in contents.variables}
    for problem, odd in (("lacks", names - slots.keys()), ("alone has", slots.keys() - names)):
        if odd:
            raise broken(
                path,
                "template",
                f"the checkpoint {problem} {', '.join(sorted(odd)[:5])}",
                "map the names of the one to those of the other, or take another template",
            )
    blocks: list[Block] = []
    for variable in contents.variables:
        slot = slots[variable.name]
        if slot.parameter is None:
            problem = "the checkpoint has its momentum alone"
            raise broken(path, variable.name, problem, "give the parameters too")
        blocks.append(_block(contents, variable, variable.place, slot.parameter))
        if place := contents.momentums.get(variable.place):
            blocks.append(_block(contents, variable, place, slot.buffer))
        elif slot.buffer is not None:
            raise broken(
                path,
                variable.name,
                "the template has no place for its momentum",
                "have Keras save it after model.optimizer.build(model.trainable_variables), with "
                "a momentum that is not 0",
            )
    if contents.lr and "lr" in checkpoint.hyperparameters:
        lr = float(checkpoint.hyperparameters["lr"])
        blocks.append(_number(contents.number_at(contents.lr, integer=False), lr))
    if ITERATION in contents.datasets and checkpoint.steps is not None:
        steps = checkpoint.steps * (contents.optimizer.accumulated if contents.optimizer else 1)
        blocks.append(_number(contents.number_at(ITERATION, integer=True), steps))
    return blocks


def _check_rule(contents: Contents, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that Keras would go on from in another way than is meant."""
    path, asked = contents.source.path, checkpoint.hyperparameters
    if checkpoint.convention not in (None, _CONVENTION):
        problem = f"the checkpoint's momentum is that of {checkpoint.convention!r}"
        raise broken(path, "template", problem, f"convert it to {_CONVENTION!r} first")
    if asked.get("dampening"):
        problem = f"the checkpoint has dampening={asked['dampening']}, and Keras none"
        raise broken(path, "template", problem, "convert it to another convention first")
    its = contents.optimizer.hyperparameters if contents.optimizer else {}
    for name in its.keys() & asked.keys():
        if its[name] != asked[name]:
            problem = f"its SGD has {name}={its[name]}, the checkpoint {name}={asked[name]}"
            raise broken(
                path, "config.json", problem, f"compile the model with {name}={asked[name]}"
            )


def _block(contents: Contents, variable: Variable, place: str, given: Stored | None) -> Block:
    """Return a tensor as it is stored at a place; zeros if none is given."""
    dataset = contents.datasets[place]
    shape = shape_in_torch(dataset.shape, variable.layout)
    if given is None:
        return dataset, lambda: torch.zeros(dataset.shape, dtype=dataset.dtype)
    if (given.shape, given.dtype) != (shape, dataset.dtype):
        raise broken(
            contents.source.path,
            variable.name,
            f"it is {dataset.dtype} {shape} there, in the checkpoint {given.dtype} {given.shape}",
            "take a template of the same model and dtype",
        )
    return dataset, lambda: from_torch(given.read(), variable.layout, dataset.shape)


def _number(dataset: Dataset, value: float) -> Block:
    return dataset, lambda: torch.tensor(value, dtype=dataset.dtype)
