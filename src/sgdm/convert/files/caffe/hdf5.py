"""The HDF5 twins of Caffe's files: `.solverstate.h5` and `.caffemodel.h5`.

Reading is done without the HDF5 library, which crashes on broken files; writing with it.
"""

from collections.abc import Iterable
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import torch

from sgdm.convert.checkpoint import Stored, broken
from sgdm.convert.files.caffe.net import MOST_OF_LAYER
from sgdm.convert.hdf5 import Dataset, find_datasets, read_dataset
from sgdm.convert.raw import view_of
from sgdm.extras import load_extra

__all__ = ["NUMBERS", "read_history", "read_weights", "write_history", "write_weights"]

NUMBERS = frozenset(map(str, range(MOST_OF_LAYER)))  # of a layer's blobs
_DTYPES = (torch.float32, torch.float64)


def read_history(path: Path, file: BufferedIOBase) -> tuple[list[Stored], int, int]:
    """Return the history in its order, the updates done and the current step of the schedule.

    Raises:
        FileError: If it is no solver state.
    """
    datasets = find_datasets(file, path)
    found = {place.removeprefix("history/"): place for place in datasets if "history/" in place}
    order = [str(number) for number in range(len(found))]
    if not found or set(order) != found.keys():
        problem = f"it should hold 0, 1, ... and holds {', '.join(list(found)[:8]) or 'nothing'}"
        raise broken(path, "history", problem, "give a .solverstate.h5")
    history = [_stored(path, file, datasets, found[number]) for number in order]
    return (
        history,
        _count(path, file, datasets, "iter"),
        _count(path, file, datasets, "current_step"),
    )


def read_weights(path: Path, file: BufferedIOBase) -> list[tuple[str, int, Stored]]:
    """Return layer, number and tensor of every blob, by the layer's name: the order is lost.

    Raises:
        FileError: If these are no weights.
    """
    datasets = find_datasets(file, path)
    found: list[tuple[str, int, Stored]] = []
    for place in datasets:
        layer, _, number = place.removeprefix("data/").rpartition("/")
        if not place.startswith("data/") or not layer or number not in NUMBERS:
            problem = "it is no blob of a layer, such as data/conv1/0"
            if place.startswith("diff/"):
                continue
            raise broken(path, place, problem, "give a .caffemodel.h5")
        found.append((layer, int(number), _stored(path, file, datasets, place)))
    if not found:
        raise broken(path, "data", "no layer has parameters", "give a .caffemodel.h5")
    return sorted(found, key=lambda it: it[:2])


def write_history(path: Path, history: Iterable[Stored], steps: int, learned_net: str) -> None:
    """Write a solver state as Caffe does; an empty `learned_net` is left out."""
    h5py: Any = load_extra("h5py", extra="convert")
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset("iter", data=[steps], dtype="<i4")
        if learned_net:
            # With its final zero, up to which Caffe reads.
            name = learned_net.encode()
            file.create_dataset("learned_net", data=name, dtype=f"S{len(name) + 1}")
        file.create_dataset("current_step", data=[0], dtype="<i4")
        group = file.create_group("history")
        for number, stored in enumerate(history):
            _write(group, str(number), stored)


def write_weights(path: Path, weights: Iterable[tuple[str, Stored]]) -> None:
    """Write the blobs of layers, by names such as "conv1/0"."""
    h5py: Any = load_extra("h5py", extra="convert")
    with h5py.File(path, "w", libver="earliest") as file:
        group = file.create_group("data")
        for name, stored in weights:
            _write(group, name, stored)


def _write(group: Any, name: str, stored: Stored) -> None:
    _, tensor = view_of(name, stored)
    group.create_dataset(name, data=tensor.numpy())


def _stored(path: Path, file: BufferedIOBase, datasets: dict[str, Dataset], place: str) -> Stored:
    dataset = datasets[place]
    if dataset.dtype not in _DTYPES:
        raise broken(path, place, f"its numbers are {dataset.dtype}, not Caffe's float or double")
    return Stored(dataset.shape, dataset.dtype, lambda: read_dataset(file, path, dataset))


def _count(path: Path, file: BufferedIOBase, datasets: dict[str, Dataset], place: str) -> int:
    dataset = datasets.get(place)
    if dataset is None or dataset.shape != (1,) or dataset.dtype.is_floating_point:
        raise broken(path, place, "there should be one integer", "give a .solverstate.h5")
    count = int(read_dataset(file, path, dataset).item())
    if count < 0:
        raise broken(path, place, f"it is {count}")
    return count
