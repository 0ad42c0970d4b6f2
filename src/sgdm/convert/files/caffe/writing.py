"""Writing Caffe's files: the slots put in a net's order, then protobuf or HDF5."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from sgdm.convert.checkpoint import Slot, Stored, broken, opened, zeros
from sgdm.convert.files.caffe.blob import Piece, as_blob, length_of, write_pieces
from sgdm.convert.files.caffe.hdf5 import NUMBERS, write_history, write_weights
from sgdm.convert.files.caffe.net import parameters_of, patches_of
from sgdm.convert.files.caffe.snapshot import (
    CURRENT_STEP,
    HISTORY,
    ITER,
    LEARNED_NET,
    Net,
    Weight,
)
from sgdm.convert.files.caffe.wire import head_of, varint_field
from sgdm.convert.raw import Patch, write_patched
from sgdm.files import write_atomically, write_together

__all__ = ["is_weights", "prepare_net", "prepare_solver"]

Write = Callable[[BinaryIO], object]

_WEIGHTS, _HDF5 = ".caffemodel", ".h5"
_MOST_BYTES = 2**31 - 1  # that protobuf reads


def is_weights(path: Path) -> bool:
    """Whether a name is one of weights."""
    return path.name.removesuffix(_HDF5).endswith(_WEIGHTS)


def prepare_net(path: Path, slots: list[Slot], net: Net | None) -> Callable[[], None]:
    """Return what writes a file of weights.

    Raises:
        FileError: If the slots hold something else, or no template is there for protobuf.
    """
    if any(slot.buffer is not None for slot in slots):
        problem = "a file of weights holds no history"
        raise broken(path, "name", problem, "name a .solverstate: its weights are written beside")
    tensors = _parameters(path, slots, net)
    if path.name.endswith(_HDF5):
        for name in tensors:
            layer, _, number = name.rpartition("/")
            if not layer or number not in NUMBERS:
                problem = "a blob is called by its layer and its number"
                raise broken(path, name, problem, "map it to such as conv1/0")
        return lambda: write_atomically(
            path, lambda file: write_weights(Path(file.name), tensors.items())
        )
    net, patches = _net(path, tensors, net)
    return lambda: write_atomically(path, partial(_write_net, net, patches))


def prepare_solver(
    path: Path, slots: list[Slot], net: Net | None, steps: int
) -> Callable[[], None]:
    """Return what writes a solver state, and beside it the parameters, if there are any.

    Raises:
        FileError: If the order of the history is not known, or the parameters have no template.
    """
    if steps >= 2**31:
        raise broken(path, "iter", f"{steps} updates are more than Caffe counts", "check them")
    if net is not None and net.messages is None:
        problem = "HDF5 does not keep the order of the layers, which the history is in"
        raise broken(net.path, "template", problem, "give the .caffemodel of protobuf")
    weights = net.weights if net else [None] * len(slots)
    history = [_history(path, *it) for it in zip(slots, weights, strict=True)]
    if not history:
        raise broken(path, "checkpoint", "it has no parameter", "give another")
    model = path.with_name(path.name.removesuffix(_HDF5).removesuffix(".solverstate") + _WEIGHTS)
    beside: list[tuple[Path, Write]] = []
    # Of a history alone, only what no optimizer steps comes with parameters, the template's own.
    if any(slot.parameter is not None for slot in slots if slot.stepped):
        its, patches = _net(path, _parameters(path, slots, net), net)
        if model.exists() and model.samefile(its.path):
            problem = f"the weights beside it, {model.name}, would replace the template"
            raise broken(path, "name", problem, "choose another")
        beside = [(model, partial(_write_net, its, patches))]
    name = str(model) if beside else ""
    if path.name.endswith(_HDF5):
        return lambda: write_together(
            [*beside, (path, lambda file: write_history(Path(file.name), history, steps, name))]
        )
    state = _state(path, history, steps, name)
    return lambda: write_together([*beside, (path, partial(write_pieces, state))])


def _parameters(path: Path, slots: list[Slot], net: Net | None) -> dict[str, Stored]:
    """Return the parameters as Caffe stores them, by name."""
    found: dict[str, Stored] = {}
    for slot, weight in zip(slots, net.weights if net else [None] * len(slots), strict=True):
        if slot.parameter is None:
            problem = "the checkpoint has its history alone"
            raise broken(path, slot.name, problem, "give its parameter too, or none at all")
        found[slot.name] = weight.turned(slot.parameter) if weight else slot.parameter
    return found


def _net(path: Path, tensors: dict[str, Stored], net: Net | None) -> tuple[Net, list[Patch]]:
    """Return the template, and what puts other parameters into it."""
    if net is None or net.messages is None:
        raise broken(
            path,
            "template",
            "there is none, and a .caffemodel holds the net, which a checkpoint does not know",
            "give a .caffemodel of protobuf of the same net",
        )
    places = parameters_of(net.layers)
    by_place = {place: tensors[of.name] for place, of in places.items()}
    patches, longer = patches_of(net.layers, by_place)
    _check_size(path, net.messages.size + longer)
    return net, patches


def _write_net(net: Net, patches: list[Patch], file: BinaryIO) -> None:
    with opened(net.path, "the template") as source:
        write_patched(file, source, net.path, patches)


def _state(path: Path, history: list[Stored], steps: int, learned_net: str) -> list[Piece]:
    """Return a `SolverState`, its fields in the order of their numbers, as protobuf does."""
    name = learned_net.encode()
    pieces: list[Piece] = [varint_field(ITER, steps)]
    if name:
        pieces.append(head_of(LEARNED_NET, len(name)) + name)
    for stored in history:
        blob = as_blob(stored)
        pieces += [head_of(HISTORY, length_of(blob)), *blob]
    pieces.append(varint_field(CURRENT_STEP, 0))
    _check_size(path, length_of(pieces))
    return pieces


def _check_size(path: Path, size: int) -> None:
    if size > _MOST_BYTES:
        problem = f"it would have {size} bytes, and protobuf reads {_MOST_BYTES}"
        raise broken(path, "file", problem, "name a .h5")


def _history(path: Path, slot: Slot, weight: Weight | None) -> Stored:
    """Return the history of a slot as Caffe stores it; zeros if it has none."""
    if slot.buffer is not None:
        return weight.turned(slot.buffer) if weight else slot.buffer
    like = weight.raw if weight else slot.parameter
    if like is None:
        problem = "neither its history nor its parameter is there"
        raise broken(path, slot.name, problem, "give the .caffemodel as template")
    return zeros(like.shape, (slot.parameter or like).dtype)
