"""Keras 3: `.keras` archives and `.weights.h5` files of models compiled with SGD.

A `.weights.h5` has no config.json. Its slots are named by their paths in it, and which momentum
belongs to which of them it does not say: one that has momentum is read with `weights` the `.keras`
file of the same model, and then as that is.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sgdm.convert.checkpoint import (
    Checkpoint,
    Slot,
    Stored,
    broken,
    check_rule,
    zeros,
)
from sgdm.convert.files.keras.archive import open_source, write_archive, write_weights
from sgdm.convert.files.keras.contents import NEEDS_CONFIG, Contents
from sgdm.convert.files.keras.model import Variable
from sgdm.convert.layout import described, from_torch
from sgdm.convert.raw import Patch, in_order
from sgdm.files import write_atomically

__all__ = ["prepare", "read"]

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
                    buffer=contents.stored(
                        contents.states_of(variable).get("momentum"), variable.layout
                    ),
                    stepped=variable.trainable is not False,
                )
                for variable in contents.variables
            ],
            hyperparameters=contents.hyperparameters(),
            steps=contents.steps(),
            remarks=contents.remarks(),
        )


def prepare(path: Path, checkpoint: Checkpoint, template: Path | None = None) -> Callable[[], None]:
    """Return what writes a copy of a template, with other parameters and momentum in it.

    A buffer that is absent becomes zeros, which are what Keras starts with and the same to it; so
    do gradients that the template has accumulated. Its moving averages begin anew, at the
    parameters.

    Args:
        path: What to write; ends in ".keras", or in ".h5" for its weights alone.
        checkpoint: Has the variables of the template's model, in its order. What of the template
            stays, and the checkpoint says nothing of, is added to its remarks.
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
        contents = Contents(source, source.config, template)
        patches = _patches(contents, checkpoint)
        checkpoint.remarks += _of_template(contents, checkpoint)
    copy = write_archive if whole else write_weights

    def write() -> None:
        with open_source(template) as source:
            write_atomically(path, lambda file: copy(file, source, patches))

    return write


def _patches(contents: Contents, checkpoint: Checkpoint) -> list[Patch]:
    """Return what is to be written where, having checked that all of it fits."""
    _check_rule(contents, checkpoint)
    patches: list[Patch] = []
    for variable, slot in zip(contents.variables, checkpoint.slots, strict=True):
        if slot.parameter is None:
            problem = "the checkpoint has its momentum alone"
            raise broken(contents.source.path, variable.name, problem, "give the parameters too")
        given = {"average": slot.parameter, "gradient": None, "momentum": slot.buffer}
        places = contents.states_of(variable)
        if slot.buffer is not None and "momentum" not in places:
            raise broken(
                contents.source.path,
                variable.name,
                "the template has no place for its momentum",
                "have Keras save it after model.optimizer.build(model.trainable_variables), with "
                "a momentum that is not 0, and this variable not frozen",
            )
        patches += _tensor(contents, variable, variable.place, slot.parameter)
        for state, place in places.items():
            patches += _tensor(contents, variable, place, given[state])
    hyperparameters = checkpoint.hyperparameters
    if contents.lr and "lr" in hyperparameters:
        patches += _number(contents, contents.lr, float(hyperparameters["lr"]))
    if contents.iteration:
        done = contents.iterations(contents.iteration, checkpoint.steps)
        patches += _number(contents, contents.iteration, done)
    return in_order(contents.source.path, patches)


def _check_rule(contents: Contents, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that Keras would go on from in another way than is meant."""
    path, asked = contents.source.path, checkpoint.hyperparameters
    check_rule(path, checkpoint, _CONVENTION)
    its = contents.optimizer.hyperparameters if contents.optimizer else {}
    for name in its.keys() & asked.keys():
        if its[name] != asked[name]:
            problem = f"its SGD has {name}={its[name]}, the checkpoint {name}={asked[name]}"
            raise broken(
                path, "config.json", problem, f"compile the model with {name}={asked[name]}"
            )


def _of_template(contents: Contents, checkpoint: Checkpoint) -> list[str]:
    """Say what of the template stays, or is set anew, without the checkpoint's having a say."""
    its = contents.hyperparameters()
    found = [f"{name}={its[name]:g}" for name in its.keys() - checkpoint.hyperparameters.keys()]
    found += contents.optimizer.settings if contents.optimizer else []
    if contents.iteration and checkpoint.steps is None:
        found.append(f"{contents.steps()} updates done")
    return [f"of the template: {text}" for text in sorted(found)]


def _tensor(
    contents: Contents, variable: Variable, place: str, given: Stored | None
) -> Iterator[Patch]:
    """Yield what writes a tensor as it is stored; zeros if none is given."""
    shape, dtype = contents.datasets[place].shape, contents.datasets[place].dtype
    if given is None:
        return contents.patches(place, zeros(shape, dtype))
    if given.dtype != dtype:
        raise broken(
            contents.source.path,
            variable.name,
            f"it is {dtype} there, in the checkpoint {given.dtype}",
            "take a template of the same dtype",
        )
    return contents.patches(
        place, Stored(shape, dtype, lambda: from_torch(given.read(), variable.layout, shape))
    )


def _number(contents: Contents, place: str, value: float) -> Iterator[Patch]:
    dtype = contents.datasets[place].dtype
    return contents.patches(place, Stored((), dtype, lambda: torch.tensor(value, dtype=dtype)))
