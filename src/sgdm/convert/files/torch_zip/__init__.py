"""Files of torch.save (`.pt`, `.pth`) with a state of torch.optim.SGD or sgdm.SGD.

Read are an optimizer's state_dict, alone or in a training checkpoint under "optimizer",
"optimizer_state_dict", "optim" or "optimizer_states" (a list of one, as Lightning keeps it), with
the model's under "model", "model_state_dict" or "state_dict"; or a model's state_dict alone. Of
several such keys the first counts. A buffer that is missing or None is absent.

The optimizer numbers its parameters in the order of its groups. They get the names that it gives
them ("param_names", or its keys, as in torch.distributed); else the model's, in the model's order;
else their numbers, "0", "1", ....

Written is {"model": {name: tensor}, "optimizer": state_dict}, or the optimizer's state_dict where
there are no parameters, both with "steps" where it is known.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sgdm.convert.checkpoint import Checkpoint, Slot, Stored, broken
from sgdm.convert.files.torch_zip.archive import write_archive
from sgdm.convert.files.torch_zip.contents import HYPERPARAMETERS, Contents, opened, plain_setting
from sgdm.convert.files.torch_zip.groups import new_group, taken_over
from sgdm.convert.files.torch_zip.pickled import View
from sgdm.convert.statistics import PARAMETER_DTYPES, listed
from sgdm.files import write_atomically

__all__ = ["read", "write"]

_BUFFER = "momentum_buffer"
_AVERAGE = "average"
_READ = (*HYPERPARAMETERS, "nu", "weight_decay_mode")
# sgdm's, which change what a step does, and what a group has where they do nothing.
_SETTINGS = {"ema_decay": None, "maximize": False}


@contextmanager
def read(path: Path, weights: Path | None = None) -> Generator[Checkpoint]:
    """Open a file of torch.save.

    Args:
        path: The file.
        weights: Another one with the model's state_dict, where it is not in the first.

    Raises:
        FileError: If a file is broken, or not of this kind.
    """
    with opened(path, weights) as contents:
        yield _checkpoint(contents)


def write(path: Path, checkpoint: Checkpoint, template: Path | None = None) -> None:
    """Write a file that torch.load(weights_only=True) reads.

    Args:
        path: The file to make or to replace.
        checkpoint: What to write.
        template: A file of the same model and optimizer, such as it is before training: the order
            and names of the parameters and the groups are taken from it, with their settings.

    Raises:
        FileError: If the template is of other parameters, or the file cannot be written.
    """
    if template is None:
        slots, groups = checkpoint.slots, [new_group(path, checkpoint)]
    else:
        with opened(template) as contents:
            slots, groups = taken_over(contents, checkpoint)
    tensors: dict[str, Stored] = {}

    def add(place: str, stored: Stored) -> View:
        if stored.dtype not in PARAMETER_DTYPES:
            raise broken(path, place, f"is of {stored.dtype}", "convert it to a floating-point one")
        numel, stride = 1, list[int]()
        for n in reversed(stored.shape):
            stride.insert(0, numel)
            numel *= max(n, 1)
        elements = 0 if 0 in stored.shape else numel
        view = View(str(len(tensors)), stored.dtype, elements, 0, stored.shape, tuple(stride))
        tensors[view.key] = stored
        return view

    model = {s.name: add(s.name, s.parameter) for s in slots if s.parameter is not None}
    in_groups = slots[: sum(len(group["params"]) for group in groups)]
    state = {
        i: {_BUFFER: add(f"{s.name}: {_BUFFER}", s.buffer)}
        for i, s in enumerate(in_groups)
        if s.buffer is not None
    }
    if 0 < len(model) < len(slots):
        lacking = [slot.name for slot in slots if slot.parameter is None]
        raise broken(path, listed(lacking), "has no weights where others have", "give all or none")
    content: dict[str, Any] = {"state": state, "param_groups": groups}
    if model:
        content = {"model": model, "optimizer": content}
    if checkpoint.steps is not None:
        content["steps"] = checkpoint.steps
    write_atomically(path, lambda file: write_archive(file, content, tensors))


def _checkpoint(contents: Contents) -> Checkpoint:
    names, model = contents.names(), contents.model
    slots: list[Slot] = []
    others: set[str] = set()
    steps: list[int] = []
    for name, identity in zip(names, contents.identities, strict=True):
        held = contents.state.get(identity, {})
        buffer = _buffer(contents, f"state[{identity}]", held)
        others |= held.keys() - {_BUFFER, "steps"}
        steps += [held["steps"]] if type(held.get("steps")) is int else []
        parameter = None
        if model is not None:
            if name not in model:
                raise contents.broken(
                    "param_groups",
                    f"its parameter {name[:100]!r} is not in the model, which has "
                    f"{listed(list(model))}",
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
        slots.append(Slot(name=name, parameter=parameter, buffer=buffer))
    rest = [name for name in contents.distinct() if name not in set(names)]
    slots += [Slot(name=name, parameter=_weight(contents, name)) for name in rest]
    if others - {_AVERAGE} and not any(slot.buffer for slot in slots):
        raise contents.broken(
            "optimizer",
            f"is the state of another optimizer, with {listed(sorted(map(str, others)))}",
            "give a state of SGD with momentum",
        )
    convention, hyperparameters, differing, remarks = _settings(
        contents, buffers=bool(contents.state)
    )
    if rest and contents.groups:
        remarks.append(f"not in the optimizer: {listed(rest)}")
    if others:
        remarks.append(f"state left out: {listed(sorted(map(str, others)))}")
    if contents.rest:
        remarks.append(f"left out: {listed(contents.rest)}")
    return Checkpoint(
        convention=convention,
        slots=slots,
        hyperparameters=hyperparameters,
        differing=differing,
        steps=contents.steps if contents.steps is not None else max(steps, default=None),
        remarks=remarks,
    )


def _weight(contents: Contents, name: str) -> Stored:
    assert contents.model is not None
    assert contents.model_archive is not None
    return contents.model_archive.stored(contents.model[name], name[:100])


def _buffer(contents: Contents, place: str, held: dict[str, Any]) -> Stored | None:
    view = held.get(_BUFFER)
    if view is None:
        return None
    if not isinstance(view, View) or view.dtype not in PARAMETER_DTYPES:
        raise contents.broken(place, f"its {_BUFFER} is no dense floating-point tensor")
    stored = contents.archive.stored(view, place)
    # sgdm keeps zeros with no steps where a checkpoint library probed: the first is to come.
    untouched = type(held.get("steps")) is int and held["steps"] == 0
    return None if untouched and not bool(stored.read().any()) else stored


class _Settings(NamedTuple):
    """What the groups say.

    Attributes:
        convention: Of all of them; None without any.
        hyperparameters: The first one's.
        differing: Those in which others differ.
        remarks: What does not come along.
    """

    convention: str | None
    hyperparameters: dict[str, Any]
    differing: list[str]
    remarks: list[str]


def _settings(contents: Contents, *, buffers: bool) -> _Settings:
    if not contents.groups:
        return _Settings(None, {}, [], [])
    conventions = {str(group.get("convention", "torch")) for group in contents.groups}
    if len(conventions) > 1:
        raise contents.broken(
            "param_groups",
            f"have several conventions, {listed(sorted(conventions))}",
            "save groups of one convention apart",
        )
    if buffers and any(group.get("correct_momentum") is True for group in contents.groups):
        raise contents.broken(
            "param_groups",
            "correct_momentum is True, whose buffers have another scale than the convention's",
            "take the state of an optimizer without it",
        )
    settings = [
        {
            name: plain_setting(contents, f"param_groups[{number}][{name!r}]", group[name])
            for name in (*_READ, *_SETTINGS)
            if name in group
        }
        for number, group in enumerate(contents.groups)
    ]
    hyperparameters = {n: settings[0][n] for n in _READ if settings[0].get(n) is not None}
    for name, value in hyperparameters.items():
        if name == "weight_decay_mode" and type(value) is str:
            continue
        if type(value) not in (bool, int, float):
            place = f"param_groups[0][{name!r}]"
            raise contents.broken(place, f"is a {type(value).__name__}, no number")
    remarks = [
        f"{name}={value}"
        for name, usual in _SETTINGS.items()
        if (value := settings[0].get(name, usual)) != usual
    ]
    differing = [
        name
        for name in _READ
        if any(its.get(name) != settings[0].get(name) for its in settings[1:])
    ]
    remarks += [f"groups differ in {name}: the first's is taken" for name in differing]
    unnamed = contents.model is not None and "param_names" not in contents.groups[0]
    if len(settings) > 1 and unnamed:
        remarks.append("groups without names: taken to be in the model's order")
    return _Settings(conventions.pop(), hyperparameters, differing, remarks)
