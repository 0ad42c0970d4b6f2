"""What the parameter groups of a saved optimizer say."""

from typing import Any, NamedTuple

from sgdm.convert.checkpoint import HYPERPARAMETERS, listed
from sgdm.convert.files.torch_zip.contents import Contents, plain_setting

__all__ = ["Said", "remarks_on", "said_by"]

# sgdm's, which change what a step does, and what a group has where they do nothing.
_SETTINGS = {"ema_decay": None, "maximize": False, "buffer_dtype": None}
# What a group has besides, and what changes nothing.
_KNOWN = {
    *HYPERPARAMETERS,
    *_SETTINGS,
    *("params", "param_names", "convention", "correct_momentum", "iterate_weight"),
    *("foreach", "fused", "differentiable"),
}


class Said(NamedTuple):
    """What the groups say.

    Attributes:
        convention: Of all of them; None without any.
        hyperparameters: The first one's.
        own: What each has else.
        remarks: What does not come along.
    """

    convention: str | None
    hyperparameters: dict[str, Any]
    own: list[dict[str, Any]]
    remarks: list[str]


def said_by(contents: Contents) -> Said:
    """Return what the groups of an optimizer say.

    Raises:
        FileError: If something in them is no setting, or they are of several conventions.
    """
    if not contents.groups:
        return Said(None, {}, [], [])
    numbers = [_numbers(contents, number) for number in range(len(contents.groups))]
    first = numbers[0]
    own = [
        {n: its.get(n) for n in HYPERPARAMETERS if its.get(n) != first.get(n)} for its in numbers
    ]
    remarks: dict[str, None] = {}
    for number, group in enumerate(contents.groups):
        for name, usual in _SETTINGS.items():
            place = f"param_groups[{number}][{name!r}]"
            value = plain_setting(contents, place, group.get(name, usual))
            if value != usual:
                remarks[f"{name}={value}"] = None
    left = {str(n): None for group in contents.groups for n in group if n not in _KNOWN}
    return Said(
        _convention(contents),
        {name: value for name, value in first.items() if value is not None},
        own,
        [*remarks, *remarks_on({"settings of the groups": list(left)})],
    )


def remarks_on(lists: dict[str, list[str]]) -> list[str]:
    """Return a remark on each list that is not empty."""
    return [f"{what}: {listed(names)}" for what, names in lists.items() if names]


def _convention(contents: Contents) -> str:
    conventions = {
        str(plain_setting(contents, "convention", group.get("convention", "torch")))
        for group in contents.groups
    }
    if len(conventions) > 1:
        raise contents.broken(
            "param_groups",
            f"have several conventions, {listed(sorted(conventions))}",
            "save groups of one convention apart",
        )
    if contents.state and any(group.get("correct_momentum") is True for group in contents.groups):
        raise contents.broken(
            "param_groups",
            "correct_momentum is True, whose buffers have another scale than the convention's",
            "take the state of an optimizer without it",
        )
    return conventions.pop()


def _numbers(contents: Contents, number: int) -> dict[str, Any]:
    """Return the hyperparameters of a group."""
    group, found = contents.groups[number], dict[str, Any]()
    for name in HYPERPARAMETERS:
        place = f"param_groups[{number}][{name!r}]"
        value = plain_setting(contents, place, group.get(name))
        wanted = (
            (str, type(None)) if name == "weight_decay_mode" else (bool, int, float, type(None))
        )
        if not isinstance(value, wanted):
            raise contents.broken(place, f"is a {type(value).__name__}, no number")
        found[name] = value
    return found
