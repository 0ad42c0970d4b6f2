"""The metadata of our files of safetensors: JSON in text, under keys that begin with "sgdm."."""

import json
from sys import float_info
from typing import Any, NamedTuple, cast

from sgdm.convert.checkpoint import HYPERPARAMETERS, Checkpoint, Slot, broken, shown
from sgdm.convert.files.safetensors_file.header import SafeTensors
from sgdm.convert.statistics import is_parameter

__all__ = [
    "PLAIN",
    "OfGroup",
    "groups_in",
    "hyperparameters_in",
    "list_of_names",
    "metadata_of",
    "steps_in",
]

_LARGEST = float_info.max  # an integer may be beyond


def metadata_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the metadata of a checkpoint's file."""
    slots = checkpoint.slots
    said: dict[str, Any] = {
        "hyperparameters": {k: v for k, v in checkpoint.hyperparameters.items() if v is not None},
        "steps": checkpoint.steps,
        "groups": _groups(slots),
        "frozen": [s.name for s in slots if not s.stepped and s.parameter and _is_parameter(s)],
    }
    if any(slot.parameter is None and slot.buffer is None for slot in slots):
        said["names"] = [slot.name for slot in slots]
    texts = {
        f"sgdm.{name}": json.dumps(value, ensure_ascii=False)
        for name, value in said.items()
        if value or value == 0
    }
    convention = checkpoint.convention
    return {"format": "pt", **({"sgdm.convention": convention} if convention else {}), **texts}


def _groups(slots: list[Slot]) -> list[dict[str, Any]]:
    """Return the groups of what is not in the first one, or has numbers of its own."""
    names: dict[Any, list[Slot]] = {}
    for slot in slots:
        if slot.group or slot.own:
            key = slot.group, tuple(sorted(slot.own.items()))
            names.setdefault(key, []).append(slot)
    return [
        {"number": its[0].group, "hyperparameters": its[0].own, "names": [s.name for s in its]}
        for its in names.values()
    ]


def _is_parameter(slot: Slot) -> bool:
    return slot.parameter is not None and is_parameter(slot.name, slot.parameter.dtype)


def list_of_names(state: SafeTensors, key: str) -> list[str] | None:
    """Return a list of names; None where there is none."""
    names = _from_json(state, key)
    return None if names is None else _names_in(state, key, names)


def _names_in(state: SafeTensors, key: str, names: Any) -> list[str]:
    if not isinstance(names, list) or not all(
        isinstance(name, str) for name in cast("list[Any]", names)
    ):
        raise broken(state.path, key, "is no list of names")
    names = cast("list[str]", names)
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        raise broken(state.path, key, "has half a character in a name") from error
    return names


class OfGroup(NamedTuple):
    """What a group says of a parameter.

    Attributes:
        own: Its own hyperparameters.
        group: The number of the group.
    """

    own: dict[str, Any]
    group: int


PLAIN = OfGroup({}, 0)


def groups_in(state: SafeTensors, names: set[str]) -> dict[str, OfGroup]:
    """Return what the groups say of their parameters."""
    key = "sgdm.groups"
    groups = _from_json(state, key)
    said: dict[str, OfGroup] = {}
    for group in cast("list[Any]", groups) if isinstance(groups, list) else []:
        entry = cast("dict[str, Any]", group) if isinstance(group, dict) else {}
        number, own = entry.get("number"), entry.get("hyperparameters")
        if type(number) is not int or not 0 <= number < len(names) or not isinstance(own, dict):
            raise broken(state.path, key, "has a group without a number or hyperparameters")
        values, _ = _checked(state, key, cast("dict[str, Any]", own), none=True)
        its = _names_in(state, key, entry.get("names"))
        if not names.issuperset(its) or not said.keys().isdisjoint(its):
            raise broken(state.path, key, "names what is no parameter, or one twice")
        said |= dict.fromkeys(its, OfGroup(values, number))
    return said


def hyperparameters_in(state: SafeTensors) -> tuple[dict[str, Any], list[str]]:
    """Return what the file says of them, and the names of what it should not."""
    key = "sgdm.hyperparameters"
    given = _from_json(state, key)
    if given is None:
        return {}, []
    if not isinstance(given, dict):
        raise broken(state.path, key, "is no JSON object")
    return _checked(state, key, cast("dict[str, Any]", given))


def _checked(
    state: SafeTensors, key: str, values: dict[str, Any], *, none: bool = False
) -> tuple[dict[str, Any], list[str]]:
    for name, value in values.items():
        if (none and value is None) or (name == "weight_decay_mode" and type(value) is str):
            continue
        if type(value) not in (bool, int, float) or not abs(cast("float", value)) <= _LARGEST:
            raise broken(state.path, key, f"'{shown(name)}' is no finite number")
    unknown = [name for name in values if name not in HYPERPARAMETERS]
    return {n: value for n, value in values.items() if n in HYPERPARAMETERS}, unknown


def steps_in(state: SafeTensors) -> int | None:
    """Return the updates done, where the file says."""
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
