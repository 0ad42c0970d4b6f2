"""scikit-learn: pickles of `MLPClassifier` and `MLPRegressor` fitted with solver="sgd".

A slot is named "coefs_/0" or "intercepts_/0". A pickle holds much besides, so a file is written
after a template of the same network, as a copy of it with other numbers: its settings stay.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch import Tensor

from sgdm.convert.checkpoint import Checkpoint, Slot, Stored, broken, zeros
from sgdm.convert.files.sklearn.arrays import Array
from sgdm.convert.files.sklearn.network import Network, open_network
from sgdm.convert.files.sklearn.settings import check_settings
from sgdm.convert.layout import described, from_torch, shape_in_torch
from sgdm.convert.raw import Patch, in_order, size_in_bytes, write_patched, write_tensor
from sgdm.files import write_atomically

__all__ = ["prepare", "read"]

_CONVENTION = "sklearn"


@contextmanager
def read(path: Path, weights: Path | None = None) -> Generator[Checkpoint]:
    """Yield what a pickled estimator holds.

    Args:
        path: The file.
        weights: None: the parameters are in the same file.
    """
    if weights is not None:
        raise broken(
            weights, "weights", "an estimator's pickle holds its own parameters", "leave them out"
        )
    with open_network(path) as network:
        yield Checkpoint(
            convention=_CONVENTION,
            slots=[
                Slot(
                    name=name,
                    layout=described("kernel", len(parameter.shape)),
                    parameter=network.stored(parameter),
                    buffer=_velocity(network, velocity),
                )
                for name, (parameter, velocity) in network.arrays.items()
            ],
            hyperparameters=network.hyperparameters,
            remarks=network.remarks,
        )


def prepare(path: Path, checkpoint: Checkpoint, template: Path | None = None) -> Callable[[], None]:
    """Return what writes a copy of a template, with other parameters and velocities in it.

    A buffer that is absent becomes zeros, which are what scikit-learn starts with.

    Args:
        path: What to write.
        checkpoint: Has every parameter of the template's network, by its name there.
        template: A pickle of the same network, fitted or partially fitted, and so for once, with
            the settings it is to go on with.
    """
    if template is None:
        raise broken(
            path,
            "template",
            "there is none, and a pickle holds a whole estimator, which a checkpoint does not know",
            "give a pickle of the same network after one partial_fit",
        )
    with open_network(template) as network:
        check_settings(network, checkpoint)
        checkpoint.remarks += [f"of the template: {remark}" for remark in network.remarks]
        patches = in_order(template, _patches(network, checkpoint))

    def write() -> None:
        with open_network(template) as network:
            write_atomically(
                path, lambda file: write_patched(file, network.file, template, patches)
            )

    return write


def _velocity(network: Network, velocity: Array | None) -> Stored | None:
    if velocity is None or network.early_stopping:
        return None
    return network.stored(velocity)


def _patches(network: Network, checkpoint: Checkpoint) -> list[Patch]:
    """Return what is to be written where, having checked that all of it fits."""
    slots = {slot.name: slot for slot in checkpoint.slots}
    if len(slots) < len(checkpoint.slots) or slots.keys() != network.arrays.keys():
        given = ", ".join(name[:50] for name in list(slots)[:8])
        raise network.broken(
            "template",
            f"its parameters are {', '.join(list(network.arrays)[:8])}, the checkpoint's {given}",
            "give the pickle of the same network, or a mapping file",
        )
    patches: list[Patch] = []
    for name, (parameter, velocity) in network.arrays.items():
        slot = slots[name]
        if slot.parameter is None:
            problem = "the checkpoint has its velocity alone"
            raise network.broken(name, problem, "give the parameters too")
        patches.append(_patch(network, name, parameter, slot.parameter))
        if velocity is not None:
            patches.append(_patch(network, name, velocity, slot.buffer))
        elif slot.buffer is not None:
            problem = "the template has no place for its velocity"
            raise network.broken(name, problem, "pickle the estimator after one partial_fit")
    return patches


def _patch(network: Network, name: str, array: Array, given: Stored | None) -> Patch:
    shape = shape_in_torch(array.shape, "kernel")
    if given is not None and (given.shape, given.dtype) != (shape, array.dtype):
        raise network.broken(
            name,
            f"it is {array.dtype} {shape} there, in the checkpoint {given.dtype} {given.shape}",
            "take a template of the same network, fitted with data of that dtype",
        )

    given = given or zeros(shape, array.dtype)

    def read() -> Tensor:
        tensor = given.read()
        if array.columns_first:  # which is as torch has it
            return tensor.contiguous().reshape(array.shape)
        return from_torch(tensor, "kernel", array.shape)

    start, size = array.block.start, size_in_bytes(array.shape, array.dtype)
    new = Stored(array.shape, array.dtype, read)
    return Patch(start, start + size, partial(write_tensor, name, new))
