"""The groups of an optimizer in torch's state_dict, as they are written."""

from inspect import signature
from pathlib import Path
from typing import Any

import torch

from sgdm.convert.checkpoint import HYPERPARAMETERS, Checkpoint, Slot, broken, listed
from sgdm.convert.files.torch_zip.contents import Contents, Setting, plain_setting

__all__ = ["Groups", "grouped"]

# Parameters, and the group that they are in.
Groups = list[tuple[list[Slot], dict[str, Any]]]

# sgdm's, of the last step: with other buffers it is wrong.
_OF_LAST_STEP = "iterate_weight"
# sgdm's, which torch.optim.SGD does not have.
_SGDM = ("nu", "weight_decay_mode", "lr0", "last_momentum")


def grouped(path: Path, checkpoint: Checkpoint, template: Contents | None) -> Groups:
    """Return the parameters that are stepped, by group, and every group without them.

    What a group says is the checkpoint's, then the template's, then torch.optim.SGD's default.

    Raises:
        FileError: If there are buffers, and not all that is needed to go on with them; or the
            template puts into one group what the checkpoint steps in different ways.
    """
    slots = [slot for slot in checkpoint.slots if slot.stepped]
    if template is not None and template.groups:
        members = _as_in(template, slots)
        settings = [_settings(template, number) for number in range(len(members))]
    else:
        by_numbers: dict[Any, list[Slot]] = {}
        for slot in slots:
            by_numbers.setdefault((slot.group, tuple(sorted(slot.own.items()))), []).append(slot)
        members = list(by_numbers.values()) or [[]]
        settings = [dict[str, Any]() for _ in members]
    defaults = {name: p.default for name, p in signature(torch.optim.SGD).parameters.items()}
    del defaults["params"]
    groups: Groups = []
    for its, said in zip(members, settings, strict=True):
        known = checkpoint.hyperparameters | (its[0].own if its else {})
        known = {n: known[n] for n in HYPERPARAMETERS if known.get(n) is not None}
        _check_known(path, its, known)
        own = _for_sgdm(checkpoint, known, said)
        common = {name: value for name, value in known.items() if name not in _SGDM}
        groups.append((its, {**defaults, **said, **common, **own}))
    return groups


def _as_in(template: Contents, slots: list[Slot]) -> list[list[Slot]]:
    """Return the parameters by the template's groups."""
    members: list[list[Slot]] = [[] for _ in template.groups]
    for slot in slots:
        members[slot.group].append(slot)
    for number, its in enumerate(members):
        odd = [slot.name for slot in its if slot.own != its[0].own]
        if odd:
            names = sorted({name for slot in its for name in slot.own})
            raise template.broken(
                f"param_groups[{number}]",
                f"holds what the source steps in different ways ({', '.join(names)}): "
                f"{listed([its[0].name, *odd])}",
                "give a template whose groups are as the source's",
            )
    return members


def _settings(template: Contents, number: int) -> dict[str, Setting]:
    """Return what a template's group says besides the hyperparameters of the run."""
    group = template.groups[number]
    said = {
        name: plain_setting(template, f"param_groups[{number}][{name!r}]", value)
        for name, value in group.items()
        if name not in ("params", "param_names", *HYPERPARAMETERS)
    }
    if said.get("correct_momentum"):
        raise template.broken(
            "param_groups",
            "the template's correct_momentum is True, whose buffers have another scale",
            "give a template without it",
        )
    return said | ({_OF_LAST_STEP: None} if _OF_LAST_STEP in said else {})


def _for_sgdm(
    checkpoint: Checkpoint, known: dict[str, Any], said: dict[str, Any]
) -> dict[str, Any]:
    """Return what sgdm's groups have more than torch's, where buffers mean something by it."""
    convention = checkpoint.convention or "torch"
    plain = known.get("nu") is None and known.get("weight_decay_mode") is None
    if convention == "torch" and plain and "convention" not in said:
        return {}
    own = {name: known[name] for name in _SGDM if name in known}
    return {"convention": convention, "correct_momentum": False, "nu": None, **own}


def _check_known(path: Path, slots: list[Slot], known: dict[str, Any]) -> None:
    lacking = [name for name in ("lr", "momentum") if name not in known]
    if lacking and any(slot.buffer is not None for slot in slots):
        raise broken(
            path,
            "param_groups",
            f"{' and '.join(lacking)} of the buffers are not known",
            "give them, or a template with them",
        )
