"""What a checkpoint of torch is: its parameters by name, with their buffers and numbers."""

from typing import Any

from sgdm.convert.checkpoint import Checkpoint, Slot, Stored, listed
from sgdm.convert.files.torch_zip.contents import Contents
from sgdm.convert.files.torch_zip.pickled import View
from sgdm.convert.files.torch_zip.settings import remarks_on, said_by
from sgdm.convert.statistics import PARAMETER_DTYPES, is_parameter

__all__ = ["BUFFER", "checkpoint_of", "could_be_stepped"]

BUFFER = "momentum_buffer"
_AVERAGE = "average"


def could_be_stepped(slot: Slot) -> bool:
    """Whether a slot is a parameter, whether an optimizer steps it or not."""
    return slot.parameter is not None and is_parameter(slot.name, slot.parameter.dtype)


def checkpoint_of(contents: Contents) -> Checkpoint:
    """Return what a file holds.

    Raises:
        FileError: If it is the state of another optimizer, or its parts do not fit.
    """
    names, said = contents.names(), said_by(contents)
    group_of = [n for n, group in enumerate(contents.groups) for _ in group["params"]]
    slots: list[Slot] = []
    others: set[str] = set()
    steps: list[int] = []
    for name, identity, number in zip(names, contents.identities, group_of, strict=True):
        held = contents.state.get(identity, {})
        buffer = _buffer(contents, f"state[{identity}]", held)
        others |= held.keys() - {BUFFER, "steps"}
        steps += [held["steps"]] if type(held.get("steps")) is int else []
        slots.append(
            Slot(
                name=name,
                parameter=_parameter(contents, name, identity, buffer),
                buffer=buffer,
                own=said.own[number],
                group=number,
            )
        )
    if not any(slot.buffer for slot in slots):
        _check_no_other_rule(contents, others - {_AVERAGE})
    if contents.infers_names() and len(contents.groups) > 1:
        _check_order(contents, slots)
    tied = contents.tied(names)
    rest = _rest(contents, {*names, *tied})
    frozen = [slot.name for slot in rest if not slot.stepped and could_be_stepped(slot)]
    return Checkpoint(
        convention=said.convention,
        slots=slots + rest,
        hyperparameters=said.hyperparameters,
        steps=contents.steps if contents.steps is not None else max(steps, default=None),
        remarks=said.remarks
        + remarks_on(
            {
                "not in the optimizer": frozen,
                "state left out": sorted(map(str, others)),
                "tied to other names, which alone are kept": list(tied),
                "left out": contents.rest,
            }
        ),
        assumed=_assumed(contents),
    )


def _check_no_other_rule(contents: Contents, states: set[str]) -> None:
    """Refuse what has neither a buffer nor the groups of SGD."""
    settings = {str(key) for group in contents.groups if "momentum" not in group for key in group}
    if odd := states or settings - {"params", "param_names"}:
        raise contents.broken(
            "optimizer",
            f"is the state of another optimizer, with {listed(sorted(map(str, odd)))}",
            "give a state of SGD with momentum",
        )


def _assumed(contents: Contents) -> list[str]:
    assumed: list[str] = []
    if contents.guessed is not None:
        assumed.append(f"taken for the model: {listed([contents.guessed])}")
    if contents.infers_names():
        assumed.append(
            "the optimizer names no parameters: taken to be in the model's order "
            "(SGD(model.named_parameters(), ...) names them)"
        )
    return assumed


def _rest(contents: Contents, known: set[str]) -> list[Slot]:
    """Return what the model has besides: parameters, if there is no optimizer."""
    return [
        Slot(
            name=name,
            parameter=_weight(contents, name),
            stepped=not contents.groups and is_parameter(name, view.dtype),
        )
        for name, view in (contents.model or {}).items()
        if name not in known
    ]


def _check_order(contents: Contents, slots: list[Slot]) -> None:
    """Refuse names by the model's order where the groups may be in another, and nothing tells."""
    shapes = [slot.buffer.shape for slot in slots if slot.buffer is not None]
    if len(set(shapes)) < len(slots):
        raise contents.broken(
            "param_groups",
            "are several and name no parameters, of which some have one shape, or no buffer: which "
            "is which is not known",
            "build the optimizer with named_parameters() before it is saved, so that it names them",
        )


def _parameter(
    contents: Contents, name: str, identity: int | str, buffer: Stored | None
) -> Stored | None:
    model = contents.model
    if model is None:
        return None
    if name not in model:
        raise contents.broken(
            "param_groups",
            f"its parameter {name[:100]!r} is not in the model, which has {listed(list(model))}",
            "give the weights it was stepping",
        )
    parameter = _weight(contents, name)
    if buffer is not None and buffer.shape != parameter.shape:
        raise contents.broken(
            f"state[{identity}]",
            f"its buffer is of shape {buffer.shape}, its parameter {name[:100]!r} of "
            f"{parameter.shape}",
            "build the optimizer with SGD(model.named_parameters(), ...) before it is "
            "saved, so that it names its parameters",
        )
    return parameter


def _weight(contents: Contents, name: str) -> Stored:
    assert contents.model is not None
    assert contents.model_archive is not None
    return contents.model_archive.stored(contents.model[name], name[:100])


def _buffer(contents: Contents, place: str, held: dict[str, Any]) -> Stored | None:
    view = held.get(BUFFER)
    if view is None:
        return None
    if not isinstance(view, View) or view.dtype not in PARAMETER_DTYPES:
        raise contents.broken(place, f"its {BUFFER} is no dense floating-point tensor")
    stored = contents.archive.stored(view, place)
    # sgdm keeps zeros with no steps where a checkpoint library probed: the first is to come.
    untouched = type(held.get("steps")) is int and held["steps"] == 0
    return None if untouched and not bool(stored.read().any()) else stored
