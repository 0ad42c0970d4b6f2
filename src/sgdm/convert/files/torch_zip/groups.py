"""The groups of an optimizer in torch's state_dict, as they are written."""

from inspect import signature
from pathlib import Path
from typing import Any, cast

import torch

from sgdm.convert.checkpoint import Checkpoint, Slot, broken
from sgdm.convert.files.torch_zip.contents import HYPERPARAMETERS, Contents, plain_setting
from sgdm.convert.statistics import listed

__all__ = ["new_group", "taken_over"]

# sgdm's, of the last step: with other buffers they are wrong.
_OF_LAST_STEP = ("iterate_weight", "last_momentum")
_PLAIN = (bool, int, float, str, type(None), torch.dtype)


def new_group(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return one group of all parameters, with every key of torch.optim.SGD's.

    Raises:
        FileError: If there are buffers, and not all that is needed to go on with them.
    """
    known = checkpoint.hyperparameters
    if any(slot.buffer is not None for slot in checkpoint.slots):
        lacking = [name for name in ("lr", "momentum") if known.get(name) is None]
        if lacking:
            raise broken(
                path,
                "param_groups",
                f"{' and '.join(lacking)} of the buffers are not known",
                "give them, or a template with them",
            )
    defaults = {name: p.default for name, p in signature(torch.optim.SGD).parameters.items()}
    del defaults["params"]
    given = {name: known[name] for name in HYPERPARAMETERS if known.get(name) is not None}
    names = [slot.name for slot in checkpoint.slots]
    group = {**defaults, **given, **_convention(checkpoint), "params": list(range(len(names)))}
    if names != [str(i) for i in range(len(names))]:
        group["param_names"] = names
    return group


def taken_over(
    contents: Contents, checkpoint: Checkpoint
) -> tuple[list[Slot], list[dict[str, Any]]]:
    """Return the parameters in a template's order, and its groups.

    Raises:
        FileError: If the template is of other parameters, or its buffers of another convention.
    """
    names = contents.names() if contents.groups else contents.distinct()
    numbered = names == [str(i) for i in range(len(names))]
    slots = _in_order(contents, names, checkpoint.slots, numbered=numbered)
    if not contents.groups:
        arranged = Checkpoint(
            convention=checkpoint.convention,
            slots=slots,
            hyperparameters=checkpoint.hyperparameters,
        )
        return slots, [new_group(contents.archive.path, arranged)]
    groups: list[dict[str, Any]] = []
    begin = 0
    for number, group in enumerate(contents.groups):
        end = begin + len(group["params"])
        settings = {
            name: _plain(contents, f"param_groups[{number}][{name!r}]", value)
            for name, value in group.items()
            if name not in ("params", "param_names")
        }
        _check_convention(contents, settings, checkpoint.convention)
        settings |= {name: None for name in _OF_LAST_STEP if name in settings}
        groups.append({**settings, **_convention(checkpoint), "params": list(range(begin, end))})
        if not numbered:
            groups[-1]["param_names"] = names[begin:end]
        begin = end
    return slots, groups


def _convention(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what sgdm's groups have more than torch's, and what buffers mean by it."""
    known = checkpoint.hyperparameters
    own = {name: known[name] for name in ("nu", "weight_decay_mode") if known.get(name) is not None}
    if checkpoint.convention in (None, "torch") and not own:
        return {}
    convention = checkpoint.convention or "torch"
    return {"convention": convention, "correct_momentum": False, **own}


def _check_convention(contents: Contents, settings: dict[str, Any], convention: str | None) -> None:
    its = settings.get("convention", convention)
    if convention is not None and its != convention:
        raise contents.broken(
            "param_groups",
            f"the template's convention is {str(its)[:100]!r}, the buffers' {convention!r}",
            "give a template of the convention that is converted to",
        )
    if settings.get("correct_momentum"):
        raise contents.broken(
            "param_groups",
            "the template's correct_momentum is True, whose buffers have another scale",
            "give a template without it",
        )


def _in_order(
    contents: Contents, names: list[str], slots: list[Slot], *, numbered: bool
) -> list[Slot]:
    """Return the slots in the template's order, those outside its optimizer behind."""
    if numbered:  # there is nothing else to go by
        by_name = dict(zip(names, slots, strict=False))
        extra = [slot.name for slot in slots[len(names) :]]
    else:
        by_name = {slot.name: slot for slot in slots}
        inside = {*names, *(contents.model or ())}
        extra = [slot.name for slot in slots if slot.name not in inside]
    missing = [name for name in names if name not in by_name]
    if missing or extra:
        raise contents.broken(
            "template",
            f"the parameters do not fit: missing {listed(missing) or 'none'}, "
            f"unknown {listed(extra) or 'none'}",
            "give a template of this very model, or names that are mapped to its own",
        )
    ordered = [by_name[name] for name in names]
    for name, slot in zip(names, ordered, strict=True):
        view = (contents.model or {}).get(name)
        for stored in (slot.parameter, slot.buffer):
            if view is not None and stored is not None and stored.shape != view.shape:
                raise contents.broken(
                    "template",
                    f"{name[:100]} is of shape {view.shape}, what is to be written of "
                    f"{stored.shape}",
                    "give a template of this very model",
                )
    return ordered + [slot for slot in slots if not numbered and slot.name not in set(names)]


def _plain(contents: Contents, place: str, value: Any) -> Any:
    value = plain_setting(contents, place, value)
    if isinstance(value, list | tuple):
        items = cast("list[Any] | tuple[Any, ...]", value)
        return [_plain(contents, place, item) for item in items]
    if not isinstance(value, _PLAIN):
        problem = f"is a {type(value).__name__}, which is not taken over"
        raise contents.broken(place, problem, "make the template with torch.optim.SGD or sgdm.SGD")
    return value
