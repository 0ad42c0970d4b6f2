"""Files of safetensors, with parameters by name and their buffers beside them.

A parameter is stored under its name, its buffer under "optimizer/NAME/momentum_buffer". The
metadata, whose values are text, hold "sgdm.names" (a JSON list of all parameters in their order,
those without parameter and buffer too), "sgdm.convention", "sgdm.hyperparameters" (a JSON object)
and "sgdm.steps"; and "format": "pt", which other readers ask for. A file of weights alone, as
others write it, is read as parameters without buffers, in the order of its header.

The format has no checksums: a flipped bit in a tensor goes unseen.
"""

import json
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from sys import float_info
from typing import Any, cast

from sgdm.convert.checkpoint import Checkpoint, Slot, Stored, broken
from sgdm.convert.files.safetensors_file.header import (
    DTYPES,
    SafeTensors,
    open_safetensors,
    write_safetensors,
)
from sgdm.convert.statistics import is_parameter, listed
from sgdm.files import write_atomically

__all__ = ["read", "write"]

_LARGEST = float_info.max  # an integer may be beyond
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


def write(path: Path, checkpoint: Checkpoint, template: Path | None = None) -> None:
    """Write a file of safetensors.

    Args:
        path: The file to make or to replace.
        checkpoint: What to write.
        template: Another such file: these are to be its parameters, and come in its order.

    Raises:
        FileError: If the template has other parameters, or the file cannot be written.
    """
    slots = checkpoint.slots if template is None else _in_order(template, checkpoint.slots)
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
    metadata = _metadata(checkpoint, [slot.name for slot in slots])
    write_atomically(path, lambda file: write_safetensors(file, metadata, tensors))


def _of_buffer(name: str) -> str:
    return f"{_PREFIX}{name}{_SUFFIX}"


def _owner(name: str) -> str | None:
    """Return the parameter whose buffer has this name; None where it is no buffer's."""
    if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
        return name[len(_PREFIX) : -len(_SUFFIX)]
    return None


def _metadata(checkpoint: Checkpoint, names: list[str]) -> dict[str, str]:
    known = {k: v for k, v in checkpoint.hyperparameters.items() if v is not None}
    metadata = {"format": "pt", "sgdm.names": json.dumps(names, ensure_ascii=False)}
    if checkpoint.convention is not None:
        metadata["sgdm.convention"] = checkpoint.convention
    if known:
        metadata["sgdm.hyperparameters"] = json.dumps(known)
    if checkpoint.steps is not None:
        metadata["sgdm.steps"] = json.dumps(checkpoint.steps)
    return metadata


def _in_order(template: Path, slots: list[Slot]) -> list[Slot]:
    by_name = {slot.name: slot for slot in slots}
    with read(template) as expected:
        names = [slot.name for slot in expected.slots]
        missing = [name for name in names if name not in by_name]
        unknown = [name for name in by_name if name not in set(names)]
        if missing or unknown:
            raise broken(
                template,
                "template",
                f"the parameters do not fit: missing {listed(missing) or 'none'}, "
                f"unknown {listed(unknown) or 'none'}",
                "give a template of this very model, or names that are mapped to its own",
            )
        for its in expected.slots:
            wanted = its.parameter or its.buffer
            for stored in (by_name[its.name].parameter, by_name[its.name].buffer):
                if wanted and stored and stored.shape != wanted.shape:
                    raise broken(
                        template,
                        "template",
                        f"{its.name[:100]} is of shape {wanted.shape}, what is to be written of "
                        f"{stored.shape}",
                        "give a template of this very model",
                    )
    return [by_name[name] for name in names]


def _checkpoint(state: SafeTensors, model: SafeTensors) -> Checkpoint:
    buffers = {
        owner: stored
        for name, stored in state.tensors.items()
        if (owner := _owner(name)) is not None
    }
    parameters = {
        name: stored
        for name, stored in model.tensors.items()
        if _owner(name) is None and is_parameter(name, stored.dtype)
    }
    names = _names(state, [*parameters, *(name for name in buffers if name not in parameters)])
    listed_names = set(names)
    names += [name for name in parameters if name not in listed_names]
    if lacking := [name for name in names if parameters and name not in parameters]:
        problem = f"the weights of {listed(lacking)} are missing"
        raise broken(model.path, "tensors", problem, "give the weights that were stepped")
    for name, buffer in buffers.items():
        if parameters and buffer.shape != parameters[name].shape:
            problem = f"is of shape {buffer.shape}, its parameter of {parameters[name].shape}"
            raise broken(state.path, _of_buffer(name)[:200], problem, "give weights that fit")
    left = [name for name in model.tensors if _owner(name) is None and name not in parameters]
    left += list(dict.fromkeys(model.others + state.others))
    return Checkpoint(
        convention=state.metadata.get("sgdm.convention"),
        slots=[
            Slot(name=name, parameter=parameters.get(name), buffer=buffers.get(name))
            for name in names
        ],
        hyperparameters=_hyperparameters(state),
        steps=_steps(state),
        remarks=[f"left out: {listed(left)}"] if left else [],
    )


def _names(state: SafeTensors, found: list[str]) -> list[str]:
    names = _from_json(state, "sgdm.names")
    if names is None:
        return found
    if not isinstance(names, list) or not all(
        isinstance(name, str) for name in cast("list[Any]", names)
    ):
        raise broken(state.path, "sgdm.names", "is no list of names")
    names = cast("list[str]", names)
    listed_names = set(names)
    own = {owner for name in state.tensors if (owner := _owner(name)) is not None}
    if len(listed_names) < len(names) or not own <= listed_names:
        raise broken(state.path, "sgdm.names", "does not list every parameter once")
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        raise broken(state.path, "sgdm.names", "has half a character in a name") from error
    return names


def _hyperparameters(state: SafeTensors) -> dict[str, Any]:
    given = _from_json(state, "sgdm.hyperparameters")
    if given is None:
        return {}
    values = cast("dict[str, Any]", given) if isinstance(given, dict) else {"it": None}
    for name, value in values.items():
        if name == "weight_decay_mode" and type(value) is str:
            continue
        if type(value) not in (bool, int, float) or not abs(cast("float", value)) <= _LARGEST:
            problem = f"{name[:100]!r} is no finite number"
            raise broken(state.path, "sgdm.hyperparameters", problem)
    return values


def _steps(state: SafeTensors) -> int | None:
    steps = _from_json(state, "sgdm.steps")
    if steps is not None and (type(steps) is not int or steps < 0):
        raise broken(state.path, "sgdm.steps", "is no count")
    return steps


def _from_json(state: SafeTensors, key: str) -> Any:
    """Return a value of the metadata; None where there is none."""
    try:
        return json.loads(state.metadata.get(key, "null"))
    except (ValueError, RecursionError) as error:
        raise broken(state.path, key, "is no JSON") from error
