"""What Caffe's files hold, protobuf or HDF5: a net's parameters, and a solver's history."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedReader
from itertools import groupby
from pathlib import Path

from sgdm.convert.checkpoint import Stored, broken, listed, opened
from sgdm.convert.files.caffe.blob import Blob, read_blob, squeezed
from sgdm.convert.files.caffe.hdf5 import read_history, read_weights
from sgdm.convert.files.caffe.net import (
    MOST_BLOBS,
    MOST_OF_LAYER,
    Layer,
    Parameter,
    parameters_of,
    read_layers,
)
from sgdm.convert.files.caffe.wire import VARINT, Messages
from sgdm.convert.hdf5 import SIGNATURE

__all__ = [
    "CURRENT_STEP",
    "HISTORY",
    "ITER",
    "LEARNED_NET",
    "Net",
    "Solver",
    "Weight",
    "open_net",
    "open_solver",
    "paired",
]

ITER, LEARNED_NET, HISTORY, CURRENT_STEP = 1, 2, 3, 4  # fields of SolverState
_KEEPS_ORDER = "give the .caffemodel of protobuf, which keeps the order of the layers"


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter of a net.

    Attributes:
        name: Such as "conv1/0".
        raw: Its tensor as stored, without the ones that the legacy form puts before its shape.
        layout: What is done to it, and to its history.
        parameter: What a protobuf file says of it; None in HDF5.
    """

    name: str
    raw: Stored
    layout: str = ""
    parameter: Parameter | None = None

    def turned(self, stored: Stored) -> Stored:
        """Return a tensor of torch's layout in Caffe's, or the other way around."""
        if self.parameter is None or not self.parameter.transposed:
            return stored
        return replace(
            stored,
            shape=stored.shape[::-1],
            read=lambda: stored.read().transpose(0, -1).contiguous(),
        )


@dataclass(frozen=True, slots=True)
class Net:
    """A file of weights, open.

    Attributes:
        path: The file.
        weights: In the net's order if that is known.
        messages: The file, in protobuf.
        layers: The same, in protobuf.
    """

    path: Path
    weights: list[Weight]
    messages: Messages | None = None
    layers: list[Layer] = field(default_factory=list[Layer])


@dataclass(slots=True)
class Solver:
    """A file of a solver's state, open.

    Attributes:
        path: The file.
        history: In the net's order.
        layouts: What was done to their shapes.
        legacy: Which of them have a shape of four axes whatever the parameter has.
        steps: Updates done.
        remarks: What does not come along.
    """

    path: Path
    history: list[Stored] = field(default_factory=list[Stored])
    layouts: list[str] = field(default_factory=list[str])
    legacy: list[Blob | None] = field(default_factory=list[Blob | None])
    steps: int = 0
    remarks: list[str] = field(default_factory=list[str])


@contextmanager
def open_net(path: Path) -> Generator[Net]:
    """Open a `.caffemodel` or `.caffemodel.h5`.

    Raises:
        FileError: If it cannot be read, or is something else.
    """
    with _open(path, "a .caffemodel") as (file, is_hdf5):
        if is_hdf5:
            blobs = read_weights(path, file)
            yield Net(path, [Weight(f"{layer}/{number}", it) for layer, number, it in blobs])
            return
        messages = Messages(path, file)
        layers = read_layers(messages)
        owned = {it.name: it for it in parameters_of(layers).values()}
        yield Net(path, [_weight(it) for it in owned.values()], messages, layers)


@contextmanager
def open_solver(path: Path) -> Generator[Solver]:
    """Open a `.solverstate` or `.solverstate.h5`.

    Raises:
        FileError: If it cannot be read, or is something else.
    """
    with _open(path, "a .solverstate") as (file, is_hdf5):
        if is_hdf5:
            history, steps, current = read_history(path, file)
            solver = Solver(path, history, [""] * len(history), [None] * len(history), steps)
        else:
            solver, current = _read_solver(Messages(path, file))
        if current:
            solver.remarks.append(f"current_step={current}, of the lr_policy 'multistep'")
        yield solver


def paired(solver: Solver, net: Net) -> list[tuple[Weight, Stored]]:
    """Return each parameter of a net with its history.

    Raises:
        FileError: If they do not fit, or it is not known which belong together.
    """
    weights = net.weights if net.messages else _ordered(net, [it.shape for it in solver.history])
    if len(weights) != len(solver.history):
        raise broken(
            solver.path,
            "history",
            f"it has {len(solver.history)} blobs, the net {len(weights)} parameters",
            "give the .caffemodel of the same snapshot; a solver other than SGD and Nesterov "
            "keeps more",
        )
    pairs: list[tuple[Weight, Stored]] = []
    for number, (weight, stored) in enumerate(zip(weights, solver.history, strict=True)):
        shape, blob = weight.raw.shape, solver.legacy[number]
        if blob is not None and squeezed(blob.shape) == squeezed(shape):
            stored = blob.stored(shape)  # noqa: PLW2901
        if stored.shape != shape:
            raise broken(
                solver.path,
                f"history {number}",
                f"it has the shape {stored.shape}, {weight.name} {shape}",
                "give the .caffemodel of the same snapshot",
            )
        pairs.append((weight, stored))
    return pairs


@contextmanager
def _open(path: Path, wanted: str) -> Generator[tuple[BufferedReader, bool]]:
    with opened(path, wanted) as file:
        yield file, file.read(len(SIGNATURE)) == SIGNATURE


def _weight(of: Parameter) -> Weight:
    changes = [_layout(of.blob.shape, of.shape), "IO -> OI" if of.transposed else ""]
    return Weight(of.name, of.blob.stored(of.shape), ", ".join(filter(None, changes)), of)


def _read_solver(messages: Messages) -> tuple[Solver, int]:
    solver, current = Solver(messages.path), 0
    for it in messages.fields(0, messages.size):
        if it.number in (ITER, CURRENT_STEP):
            if it.kind != VARINT or it.value >= 2**31:
                raise messages.broken(it.begin, "a count should be here", "give a .solverstate")
            if it.number == ITER:
                solver.steps = it.value
            else:
                current = it.value
        elif it.number == LEARNED_NET:
            solver.remarks.append(f"learned_net={messages.text(it)!r:.200}")
        elif it.number == HISTORY:
            blob = read_blob(messages, it)
            if len(solver.history) == MOST_BLOBS:
                raise messages.broken(it.begin, f"there are more than {MOST_BLOBS} blobs")
            shape = squeezed(blob.shape) if blob.legacy else blob.shape
            solver.history.append(blob.stored(shape))
            solver.layouts.append(_layout(blob.shape, shape))
            solver.legacy.append(blob if blob.legacy else None)
        else:
            solver.remarks.append(f"field {it.number}, which Caffe's SolverState does not have")
            if len(solver.remarks) > 8:
                problem = "it has many fields that Caffe's SolverState does not have"
                raise messages.broken(it.begin, problem, "give a .solverstate")
    if not solver.history:
        raise messages.broken(0, "it has no history", "give a .solverstate")
    return solver, current


def _layout(stored: tuple[int, ...], shape: tuple[int, ...]) -> str:
    return "" if stored == shape else f"{stored} -> {shape}"


def _ordered(net: Net, shapes: list[tuple[int, ...]]) -> list[Weight]:
    """Return the weights of an HDF5 file in the order that only these shapes allow.

    HDF5 keeps layers by name, and the history is in the net's order.
    """
    layers: dict[tuple[tuple[int, ...], ...], list[list[Weight]]] = {}
    for _, weights in groupby(net.weights, lambda it: it.name.rpartition("/")[0]):
        layer = list(weights)
        layers.setdefault(tuple(it.raw.shape for it in layer), []).append(layer)
    found: list[Weight] = []
    while layers:
        rest = tuple(shapes[len(found) : len(found) + MOST_OF_LAYER])
        lengths = {len(each) for each in layers}
        fitting = [its for n in lengths for its in layers.get(rest[:n], ()) if len(rest) >= n]
        if len(fitting) != 1:
            names = listed([layer[0].name.rpartition("/")[0] for layer in fitting])
            problem = f"history {len(found)} fits {names or 'no layer'}"
            raise broken(net.path, "data", problem, _KEEPS_ORDER)
        found += layers.pop(tuple(it.raw.shape for it in fitting[0]))[0]
    return found
