"""scikit-learn: pickles of `MLPClassifier` and `MLPRegressor` fitted with solver="sgd".

A slot is named "coefs_/0" or "intercepts_/0". A pickle holds much besides, so a file is written
after a template of the same network, as a copy of it with other numbers: its settings stay.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from io import BufferedReader
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from sgdm.convert.checkpoint import Checkpoint, Slot, Stored, broken
from sgdm.convert.files.sklearn.arrays import Array
from sgdm.convert.files.sklearn.network import Network, opened
from sgdm.convert.layout import described, from_torch, shape_in_torch
from sgdm.convert.raw import size_in_bytes, view_of
from sgdm.files import write_atomically

__all__ = ["read", "write"]

_CONVENTION = "sklearn"
_CHUNK = 1 << 20


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
    with opened(path) as network:
        yield Checkpoint(
            convention=_CONVENTION,
            slots=[
                Slot(
                    name=name,
                    layout=described("kernel", len(parameter.shape)),
                    parameter=network.stored(name, parameter),
                    buffer=network.stored(f"velocity of {name}", velocity) if velocity else None,
                )
                for name, (parameter, velocity) in network.arrays.items()
            ],
            hyperparameters=network.hyperparameters,
            remarks=network.remarks,
        )


def write(path: Path, checkpoint: Checkpoint, template: Path | None = None) -> None:
    """Write a copy of a template, with other parameters and velocities in it.

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
    with opened(template) as network:
        _check_rule(network, checkpoint)
        pieces = _pieces(network, checkpoint)
        write_atomically(path, lambda file: _write_copy(file, network, pieces))


def _check_rule(network: Network, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that scikit-learn would go on from in another way than is meant."""
    if checkpoint.convention not in (None, _CONVENTION):
        problem = f"the checkpoint's buffers are those of {checkpoint.convention!r}"
        raise network.broken("template", problem, f"convert them to {_CONVENTION!r} first")
    asked, its = checkpoint.hyperparameters, network.hyperparameters
    if asked.get("dampening"):
        problem = f"the checkpoint has dampening={asked['dampening']}, and scikit-learn none"
        raise network.broken("template", problem, "convert it to another convention first")
    for name, attribute in (("lr", "learning_rate"), ("momentum",) * 2, ("nesterov",) * 2):
        if name in asked and name in its and asked[name] != its[name]:
            raise network.broken(
                "_optimizer",
                f"its {attribute} is {its[name]}, the checkpoint's {name} {asked[name]}",
                f"set _optimizer.{attribute} of the estimator to {asked[name]} and pickle it again",
            )


# Where the elements of an array lie in the file, and what writes others.
_Piece = tuple[int, int, Callable[[BinaryIO], object]]


def _pieces(network: Network, checkpoint: Checkpoint) -> list[_Piece]:
    """Return what is to be written where, having checked that all of it fits."""
    slots = {slot.name: slot for slot in checkpoint.slots}
    if len(slots) < len(checkpoint.slots) or slots.keys() != network.arrays.keys():
        given = ", ".join(name[:50] for name in list(slots)[:8])
        raise network.broken(
            "template",
            f"its parameters are {', '.join(list(network.arrays)[:8])}, the checkpoint's {given}",
            "give the pickle of the same network, or a mapping file",
        )
    pieces: list[_Piece] = []
    for name, (parameter, velocity) in network.arrays.items():
        slot = slots[name]
        if slot.parameter is None:
            problem = "the checkpoint has its velocity alone"
            raise network.broken(name, problem, "give the parameters too")
        pieces.append(_piece(network, name, parameter, slot.parameter))
        if velocity is not None:
            pieces.append(_piece(network, name, velocity, slot.buffer))
        elif slot.buffer is not None:
            problem = "the template has no place for its velocity"
            raise network.broken(name, problem, "pickle the estimator after one partial_fit")
    pieces.sort(key=lambda piece: piece[0])
    if any(a[0] + a[1] > b[0] for a, b in pairwise(pieces) if b[1]):
        raise network.broken("template", "two of its arrays are one")
    return pieces


def _piece(network: Network, name: str, array: Array, given: Stored | None) -> _Piece:
    shape = shape_in_torch(array.shape, "kernel")
    if given is not None and (given.shape, given.dtype) != (shape, array.dtype):
        raise network.broken(
            name,
            f"it is {array.dtype} {shape} there, in the checkpoint {given.dtype} {given.shape}",
            "take a template of the same network, fitted with data of that dtype",
        )

    def read() -> Tensor:
        if given is None:
            return torch.zeros(array.shape, dtype=array.dtype)
        tensor = given.read()
        if array.columns_first:  # which is as torch has it
            return tensor.contiguous().reshape(array.shape)
        return from_torch(tensor, "kernel", array.shape)

    def write_elements(file: BinaryIO) -> None:
        view, _tensor = view_of(name, Stored(array.shape, array.dtype, read))
        file.write(view)

    return array.block.start, size_in_bytes(array.shape, array.dtype), write_elements


def _write_copy(target: BinaryIO, network: Network, pieces: list[_Piece]) -> None:
    source, at = network.file, 0
    end = os.fstat(source.fileno()).st_size
    for start, size, write_elements in pieces:
        _copy(source, at, start, target)
        write_elements(target)
        at = start + size
    _copy(source, at, end, target)


def _copy(source: BufferedReader, start: int, end: int, target: BinaryIO) -> None:
    source.seek(start)
    while start < end:
        chunk = source.read(min(_CHUNK, end - start))
        if not chunk:
            raise OSError("the template has become shorter")
        target.write(chunk)
        start += len(chunk)
