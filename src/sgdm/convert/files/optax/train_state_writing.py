"""A checkpoint as flax has it: a new train state, or what changes in one that is there."""

from pathlib import Path

import torch
from torch import Tensor

from sgdm.convert.checkpoint import Checkpoint, Slot, Stored, broken
from sgdm.convert.files.optax.flax_file import FlaxFile, layout_of
from sgdm.convert.files.optax.reader import Array
from sgdm.convert.files.optax.train_state import Placed
from sgdm.convert.files.optax.writer import Content
from sgdm.convert.layout import from_torch, shape_in_torch
from sgdm.convert.statistics import listed

__all__ = ["Replacement", "new_content", "replacements"]

# From which byte of the template to which, by what, and where that is.
Replacement = tuple[int, int, Content, str]


def new_content(path: Path, checkpoint: Checkpoint) -> Content:
    """Return the train state of optax.sgd without a schedule, or its opt_state.

    Raises:
        FileError: If names or tensors cannot stand in one file.
    """
    slots = checkpoint.slots
    trace = _nested(path, {s.name: _in_file(s.name, s.buffer) for s in slots})
    opt_state: Content = {"0": {"trace": trace}, "1": {}}
    lacking = [slot.name for slot in slots if slot.parameter is None]
    if len(lacking) == len(slots):
        return opt_state
    if lacking:
        raise broken(path, listed(lacking), "has no weights where others have", "give all or none")
    return {
        "step": checkpoint.steps or 0,
        "params": _nested(path, {s.name: _in_file(s.name, s.parameter) for s in slots}),
        "opt_state": opt_state,
    }


def replacements(template: FlaxFile, checkpoint: Checkpoint) -> list[Replacement]:
    """Return what is to change in a template.

    Raises:
        FileError: If it has no place for a tensor, or one of another shape.
    """
    replaced: list[Replacement] = []
    for slot in checkpoint.slots:
        replaced += _of_slot(template, slot)
    state = template.state
    if checkpoint.steps is not None:
        for placed in (*state.counts, *state.steps):
            replaced += _of_number(template, placed, checkpoint.steps)
    for name, places in state.hyperparameters.items():
        if (value := checkpoint.hyperparameters.get(name)) is not None:
            for placed in places:
                replaced += _of_number(template, placed, float(value))
    return replaced


def _of_slot(template: FlaxFile, slot: Slot) -> list[Replacement]:
    trace = template.state.traces.get(slot.name)
    parameter = (template.parameters or {}).get(slot.name)
    if trace is None and parameter is None:
        raise broken(
            template.path, slot.name, "it is not in the template", "give one of the same model"
        )
    replaced: list[Replacement] = []
    if slot.parameter is not None and template.parameters is not None:
        replaced += _of_tensor(template, parameter, slot.name, slot.parameter)
    if slot.buffer is not None:
        replaced += _of_tensor(template, trace, f"{slot.name}: trace", slot.buffer)
    elif trace is not None and isinstance(array := trace.node, Array):
        zeros = Stored(
            array.shape, array.dtype, lambda: torch.zeros(array.shape, dtype=array.dtype)
        )
        replaced.append((array.start, array.end, zeros, trace.place))
    return replaced


def _of_tensor(
    template: FlaxFile, placed: Placed | None, place: str, stored: Stored
) -> list[Replacement]:
    if placed is None:
        raise broken(
            template.path,
            place,
            "the template has none",
            "make one with optax.sgd(..., momentum=...) that trains this parameter",
        )
    node, name = placed.node, place.partition(": ")[0]
    layout = layout_of(name)
    if isinstance(node, Array) and shape_in_torch(node.shape, layout) != stored.shape:
        raise broken(
            template.path,
            placed.place,
            f"its shape in torch's layout is {shape_in_torch(node.shape, layout)}, and what is to "
            f"be written has {stored.shape}",
            "give a template of the same model",
        )
    return [(node.start, node.end, _in_file(name, stored), placed.place)]


def _of_number(template: FlaxFile, placed: Placed, value: float) -> list[Replacement]:
    node = placed.node
    if template.number(placed) is None:
        return []
    if not isinstance(node, Array):
        return [(node.start, node.end, value, placed.place)]
    dtype = node.dtype
    if isinstance(value, float) and not dtype.is_floating_point:
        dtype = torch.float32
    elif isinstance(value, int) and value > torch.iinfo(dtype).max:
        raise broken(template.path, placed.place, f"its type cannot hold {value}", "take a wider")
    number = torch.full(node.shape, value, dtype=dtype)
    return [(node.start, node.end, Stored(node.shape, dtype, lambda: number), placed.place)]


def _in_file(name: str, stored: Stored | None) -> Stored | None:
    """Return a tensor as the file has it."""
    if stored is None:
        return None
    layout, shape = layout_of(name), stored.shape
    if layout == "kernel" and len(shape) >= 2:
        outputs, inputs, *spatial = shape
        shape = (*spatial, inputs, outputs)

    def load() -> Tensor:
        return from_torch(stored.read(), layout, shape)

    return Stored(shape, stored.dtype, load)


def _nested(path: Path, named: dict[str, Stored | None]) -> dict[str, Content]:
    """Return a tree whose paths are the names."""
    tree: dict[str, Content] = {}
    for name, stored in named.items():
        *modules, last = name.split("/")
        node = tree
        for module in modules:
            inner = node.setdefault(module, {})
            if not isinstance(inner, dict):
                raise broken(path, name, "a part of this name is another parameter", "rename one")
            node = inner
        if last in node:
            raise broken(path, name, "there is a parameter or module of this name", "rename one")
        node[last] = stored
    return tree
