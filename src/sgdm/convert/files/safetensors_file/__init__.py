"""Files of safetensors, with parameters by name and their buffers beside them.

A parameter is stored under its name, its buffer under "optimizer/NAME/momentum_buffer". The
metadata, whose values are text, hold "sgdm.convention", "sgdm.hyperparameters" (a JSON object) and
"sgdm.steps"; where they are needed, "sgdm.names" (a JSON list of all parameters in their order,
where some have neither parameter nor buffer), "sgdm.groups" (a list of groups that differ from what
is said for all, each with its "number", its own "hyperparameters", and "names"), "sgdm.frozen" (a
list of parameters that are not stepped); and "format": "pt", which other readers ask for. A file of
weights alone, as others write it, is read as parameters without buffers, in the order of its
header; statistics of BatchNorm, and what is not of floating-point, are not stepped.

The format has no checksums: a flipped bit in a tensor goes unseen.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sgdm.convert.checkpoint import Checkpoint, Slot, Stored, broken, listed
from sgdm.convert.files.safetensors_file.header import (
    DTYPES,
    SafeTensors,
    open_safetensors,
    write_safetensors,
)
from sgdm.convert.files.safetensors_file.metadata import (
    PLAIN,
    groups_in,
    hyperparameters_in,
    list_of_names,
    metadata_of,
    steps_in,
)
from sgdm.convert.statistics import is_parameter
from sgdm.files import write_atomically

__all__ = ["prepare", "read"]

_PREFIX, _SUFFIX = "optimizer/", "/momentum_buffer"


@contextmanager
def read(path: Path, weights: Path | None = None) -> Generator[Checkpoint]:
    """Open a file of safetensors.

    Args:
        path: The file.
        weights: Another one with the parameters, where they are not in the first.

    Raises:
        FileError: If a file is broken, or not of this kind.
    """
    with ExitStack() as stack:
        state = stack.enter_context(open_safetensors(path))
        model = state if weights is None else stack.enter_context(open_safetensors(weights))
        yield _checkpoint(state, model)


def prepare(path: Path, checkpoint: Checkpoint, template: Path | None = None) -> Callable[[], None]:
    """Return what writes a file of safetensors.

    Args:
        path: The file to make or to replace.
        checkpoint: What to write.
        template: Another such file, for the names and their order, which the checkpoint has.

    Raises:
        FileError: If something in the checkpoint cannot be in such a file.
    """
    del template  # whose names and order the checkpoint has
    slots = checkpoint.slots
    tensors: dict[str, Stored] = {}
    for slot in slots:
        for name, stored in ((slot.name, slot.parameter), (_of_buffer(slot.name), slot.buffer)):
            if stored is None:
                continue
            if name in tensors or name == "__metadata__":
                problem = "cannot be the name of this tensor, which is taken"
                raise broken(path, name, problem, "give the parameter another name")
            if stored.dtype not in DTYPES.values():
                problem = f"is of {stored.dtype}, which this format does not have"
                raise broken(path, name, problem, f"convert it to one of {', '.join(DTYPES)}")
            tensors[name] = stored
    weights = {slot.name for slot in slots if slot.parameter is not None}
    if lacking := [slot.name for slot in slots if weights and slot.name not in weights]:
        raise broken(path, listed(lacking), "has no weights where others have", "give all or none")
    metadata = metadata_of(checkpoint)
    return lambda: write_atomically(path, lambda file: write_safetensors(file, metadata, tensors))


def _of_buffer(name: str) -> str:
    return f"{_PREFIX}{name}{_SUFFIX}"


def _owner(name: str) -> str | None:
    """Return the parameter whose buffer has this name; None where it is no buffer's."""
    if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
        return name[len(_PREFIX) : -len(_SUFFIX)]
    return None


def _checkpoint(state: SafeTensors, model: SafeTensors) -> Checkpoint:
    buffers = {
        owner: stored
        for name, stored in state.tensors.items()
        if (owner := _owner(name)) is not None
    }
    parameters = {n: stored for n, stored in model.tensors.items() if _owner(n) is None}
    found = dict.fromkeys([*(_owner(name) or name for name in state.tensors), *parameters])
    names = _names(state, [name for name in found if name in parameters or name in buffers])
    listed_names = set(names)
    names += [name for name in parameters if name not in listed_names]
    if lacking := [name for name in names if parameters and name not in parameters]:
        problem = f"the weights of {listed(lacking)} are missing"
        raise broken(model.path, "tensors", problem, "give the weights that were stepped")
    for name, buffer in buffers.items():
        if parameters and buffer.shape != parameters[name].shape:
            problem = f"is of shape {buffer.shape}, its parameter of {parameters[name].shape}"
            raise broken(state.path, _of_buffer(name)[:200], problem, "give weights that fit")
    left = list(dict.fromkeys(model.others + state.others))
    said = groups_in(state, listed_names)
    frozen = set(list_of_names(state, "sgdm.frozen") or ())
    hyperparameters, unknown = hyperparameters_in(state)
    left += unknown
    return Checkpoint(
        convention=state.metadata.get("sgdm.convention"),
        slots=[
            Slot(
                name=name,
                parameter=(parameter := parameters.get(name)),
                buffer=buffers.get(name),
                own=said.get(name, PLAIN).own,
                group=said.get(name, PLAIN).group,
                stepped=name in buffers
                or parameter is None
                or (name not in frozen and is_parameter(name, parameter.dtype)),
            )
            for name in names
        ],
        hyperparameters=hyperparameters,
        steps=steps_in(state),
        remarks=[f"left out: {listed(left)}"] if left else [],
    )


def _names(state: SafeTensors, found: list[str]) -> list[str]:
    names = list_of_names(state, "sgdm.names")
    if names is None:
        return found
    listed_names = set(names)
    own = {owner for name in state.tensors if (owner := _owner(name)) is not None}
    if len(listed_names) < len(names) or not own <= listed_names:
        raise broken(state.path, "sgdm.names", "does not list every parameter once")
    return names
