"""A checkpoint as flax has it: a new train state, or what changes in one that is there."""

from collections.abc import Set as AbstractSet
from pathlib import Path

import torch
from torch import Tensor

from sgdm.convert.checkpoint import Checkpoint, Slot, Stored, broken, listed, zeros
from sgdm.convert.files.optax.flax_file import FlaxFile, layout_of
from sgdm.convert.files.optax.injected import momentum_of, wrappers
from sgdm.convert.files.optax.reader import Array
from sgdm.convert.files.optax.rule import decay_is_coupled
from sgdm.convert.files.optax.train_state import Placed
from sgdm.convert.files.optax.writer import Content
from sgdm.convert.layout import from_torch, shape_in_torch
from sgdm.convert.statistics import is_parameter

__all__ = ["Replacement", "new_content", "not_held", "replacements"]

_SETTINGS = ("lr", "momentum", "nesterov", "weight_decay")

# From which byte of the template to which, by what, and where that is.
Replacement = tuple[int, int, Content, str]


def new_content(path: Path, checkpoint: Checkpoint) -> Content:
    """Return the train state of optax.sgd without a schedule, or its opt_state.

    Raises:
        FileError: If names or tensors cannot stand in one file.
    """
    slots = [slot for slot in checkpoint.slots if _is_in_params(slot)]
    if left := [slot.name for slot in checkpoint.slots if not _is_in_params(slot)]:
        checkpoint.remarks.append(f"left out, since they are no parameters: {listed(left)}")
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


def _is_in_params(slot: Slot) -> bool:
    """Whether it is among the parameters, where statistics have no place."""
    stored = slot.parameter
    return slot.stepped or (stored is not None and is_parameter(slot.name, stored.dtype))


def replacements(template: FlaxFile, checkpoint: Checkpoint) -> list[Replacement]:
    """Return what is to change in a template.

    Raises:
        FileError: If it has no place for a tensor, or one of another shape.
    """
    state = template.state
    for placed in state.mini_steps:
        if count := template.number(placed):
            raise broken(
                template.path,
                placed.place,
                f"it is {count}: MultiSteps has accumulated gradients of another run",
                "save the template between two steps",
            )
    replaced: list[Replacement] = []
    for slot in checkpoint.slots:
        replaced += _of_slot(template, slot)
    if checkpoint.steps is not None:
        for placed in (*state.counts, *state.steps):
            replaced += _of_number(template, placed, checkpoint.steps)
    return replaced + _of_hyperparameters(template, checkpoint)


def not_held(checkpoint: Checkpoint, held: AbstractSet[str]) -> list[str]:
    """Return remarks on hyperparameters that a file has no place for."""
    known = checkpoint.hyperparameters
    lacking = [name for name in _SETTINGS if name not in held]
    common = [f"{name}={known[name]}" for name in lacking if known.get(name)]
    text = f"{', '.join(common)}: not held by the file, to be set in optax"
    return [text] if common else []


def _of_hyperparameters(template: FlaxFile, checkpoint: Checkpoint) -> list[Replacement]:
    state = template.state
    places = [placed for its in state.hyperparameters.values() for placed in its]
    under: dict[str, list[Slot]] = {placed.wrapper: [] for placed in places}
    for slot in checkpoint.slots:
        if trace := state.traces.get(slot.name):
            for wrapper in wrappers(momentum_of(trace, slot.name)):
                if wrapper in under:
                    under[wrapper].append(slot)
    replaced: list[Replacement] = []
    for name, its in state.hyperparameters.items():
        for placed in its:
            value = _common_value(template, checkpoint, name, placed, under[placed.wrapper])
            if value is not None:
                replaced += _of_number(template, placed, value)
    return replaced


def _common_value(
    template: FlaxFile, checkpoint: Checkpoint, name: str, placed: Placed, slots: list[Slot]
) -> float | None:
    """Return what all the parameters have that a hyperparameter of the template is for."""
    common = checkpoint.hyperparameters.get(name)
    given = [slot.own.get(name, common) for slot in slots or checkpoint.slots] or [common]
    values = {float(value) for value in given if value is not None}
    if not values:
        return None
    if len(values) > 1:
        raise broken(
            template.path,
            placed.place,
            f"it is one for parameters whose {name} differ",
            "make a template with multi_transform and inject_hyperparams for each of them",
        )
    value = values.pop()
    if name == "weight_decay" and value and not decay_is_coupled(template.state, placed):
        raise broken(
            template.path,
            placed.place,
            f"it may not act on every gradient, as the checkpoint's {value} does",
            "make a template with chain(add_decayed_weights(weight_decay), sgd(...))",
        )
    return value


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
        absent = zeros(array.shape, array.dtype)
        replaced.append((array.start, array.end, absent, trace.place))
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
