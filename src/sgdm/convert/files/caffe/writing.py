"""Writing Caffe's files: the slots put in a net's order, then protobuf or HDF5."""

from pathlib import Path
from typing import BinaryIO

import torch

from sgdm.convert.checkpoint import Slot, Stored, broken
from sgdm.convert.files.caffe.blob import Piece, as_blob, length_of, write_pieces
from sgdm.convert.files.caffe.hdf5 import write_history, write_weights
from sgdm.convert.files.caffe.net import parameters_of, rewritten
from sgdm.convert.files.caffe.snapshot import CURRENT_STEP, HISTORY, ITER, LEARNED_NET, Net
from sgdm.convert.files.caffe.wire import head_of, varint_field
from sgdm.files import write_atomically

__all__ = ["in_order", "is_weights", "write_net", "write_solver"]

_WEIGHTS, _HDF5 = ".caffemodel", ".h5"
_MOST_BYTES = 2**31 - 1  # that protobuf reads


def is_weights(path: Path) -> bool:
    """Whether a name is one of weights."""
    return path.name.removesuffix(_HDF5).endswith(_WEIGHTS)


def in_order(path: Path, slots: list[Slot], net: Net | None) -> list[Slot]:
    """Return the slots in the net's order, having checked that they are its.

    Raises:
        FileError: If they are not, or there is no net for parameters.
    """
    if net is None:
        return slots
    given = {slot.name: slot for slot in slots}
    wanted = {weight.name: weight for weight in net.weights}
    unknown = [name for name in given if name not in wanted]
    if len(given) < len(slots) or unknown:
        problem = f"{(unknown or [slots[0].name])[0]:.100} is not in it, or there twice"
        raise broken(net.path, "template", problem, "give the net's own, or a mapping file")
    found: list[Slot] = []
    for name, weight in wanted.items():
        slot = given.get(name, Slot(name=name))
        if name not in given:
            if weight.parameter is None or not weight.parameter.statistic:
                problem = "the checkpoint has nothing of this name"
                raise broken(net.path, name, problem, "give the net's own, or a mapping file")
            if is_weights(path) or any(it.parameter for it in slots):
                slot = Slot(name=name, parameter=weight.stored)
        for stored in (slot.parameter, slot.buffer):
            if stored is not None and stored.shape != weight.stored.shape:
                problem = f"it has the shape {weight.stored.shape} there, here {stored.shape}"
                raise broken(net.path, name, problem, "give the .caffemodel of this very net")
        found.append(slot)
    return found


def write_net(path: Path, slots: list[Slot], net: Net | None) -> None:
    """Write a file of weights.

    Raises:
        FileError: If the slots hold something else, or no template is there for protobuf.
    """
    if any(slot.buffer is not None for slot in slots):
        problem = "a file of weights holds no history"
        raise broken(path, "name", problem, "name a .solverstate: its weights are written beside")
    tensors = _parameters(path, slots)
    if path.name.endswith(_HDF5):
        for name in tensors:
            layer, _, number = name.rpartition("/")
            if not layer or number not in map(str, range(100)):
                problem = "a blob is called by its layer and its number"
                raise broken(path, name, problem, "map it to such as conv1/0")
        write_atomically(path, lambda file: write_weights(Path(file.name), tensors.items()))
    else:
        pieces = _net(path, tensors, net)
        write_atomically(path, lambda file: write_pieces(file, pieces))


def write_solver(path: Path, slots: list[Slot], net: Net | None, steps: int) -> None:
    """Write a solver state, and beside it the parameters, if there are any.

    Raises:
        FileError: If the order of the history is not known, or the parameters have no template.
    """
    if steps >= 2**31:
        raise broken(path, "iter", f"{steps} updates are more than Caffe counts", "check them")
    if net is not None and net.messages is None:
        problem = "HDF5 does not keep the order of the layers, which the history is in"
        raise broken(net.path, "template", problem, "give the .caffemodel of protobuf")
    shapes = [weight.stored for weight in net.weights] if net else [None] * len(slots)
    history = [_history(path, *it) for it in zip(slots, shapes, strict=True)]
    if not history:
        raise broken(path, "checkpoint", "it has no parameter", "give another")
    beside, weights = "", list[Piece]()
    if any(slot.parameter is not None for slot in slots):
        stem = path.name.removesuffix(_HDF5).removesuffix(".solverstate")
        model = path.with_name(stem + _WEIGHTS)
        weights = _net(path, _parameters(path, slots), net)
        if net is not None and model.exists() and model.samefile(net.path):
            problem = f"the weights beside it, {model.name}, would replace the template"
            raise broken(path, "name", problem, "choose another")
        beside = str(model)
    if path.name.endswith(_HDF5):
        state: list[Piece] = []
    else:
        state = _state(path, history, steps, beside)

    def write_both(file: BinaryIO) -> None:
        if path.name.endswith(_HDF5):
            write_history(Path(file.name), history, steps, beside)
        else:
            write_pieces(file, state)
        # Last: if the solver state fails, the weights that are there stay as well.
        if beside:
            write_atomically(Path(beside), lambda inner: write_pieces(inner, weights))

    write_atomically(path, write_both)


def _parameters(path: Path, slots: list[Slot]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for slot in slots:
        if slot.parameter is None:
            problem = "the checkpoint has its history alone"
            raise broken(path, slot.name, problem, "give its parameter too, or none at all")
        found[slot.name] = slot.parameter
    return found


def _net(path: Path, tensors: dict[str, Stored], net: Net | None) -> list[Piece]:
    """Return the template with other parameters."""
    if net is None or net.messages is None:
        raise broken(
            path,
            "template",
            "there is none, and a .caffemodel holds the net, which a checkpoint does not know",
            "give a .caffemodel of protobuf of the same net",
        )
    places = parameters_of(net.layers)
    by_place = {place: tensors[of.name] for place, of in places.items()}
    return _fitting(path, list(rewritten(net.messages, net.layers, by_place)))


def _state(path: Path, history: list[Stored], steps: int, learned_net: str) -> list[Piece]:
    """Return a `SolverState`, its fields in the order of their numbers, as protobuf does."""
    name = learned_net.encode()
    pieces: list[Piece] = [varint_field(ITER, steps)]
    if name:
        pieces.append(head_of(LEARNED_NET, len(name)) + name)
    for stored in history:
        blob = as_blob(stored)
        pieces += [head_of(HISTORY, length_of(blob)), *blob]
    return _fitting(path, [*pieces, varint_field(CURRENT_STEP, 0)])


def _fitting(path: Path, pieces: list[Piece]) -> list[Piece]:
    if (size := length_of(pieces)) > _MOST_BYTES:
        problem = f"it would have {size} bytes, and protobuf reads {_MOST_BYTES}"
        raise broken(path, "file", problem, "name a .h5")
    return pieces


def _history(path: Path, slot: Slot, like: Stored | None) -> Stored:
    """Return the history of a slot; zeros if it has none."""
    like = slot.parameter or like
    if slot.buffer is not None:
        return slot.buffer
    if like is None:
        problem = "neither its history nor its parameter is there"
        raise broken(path, slot.name, problem, "give the .caffemodel as template")
    shape, dtype = like.shape, like.dtype
    return Stored(shape, dtype, lambda: torch.zeros(shape, dtype=dtype))
