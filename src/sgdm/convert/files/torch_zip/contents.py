"""What a file of torch.save holds: which of it is the model, which the optimizer, and the names."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch

from sgdm.convert.checkpoint import broken, listed
from sgdm.convert.files.torch_zip.archive import Archive, open_archive
from sgdm.convert.files.torch_zip.pickled import View
from sgdm.convert.inert_pickle import Inert
from sgdm.convert.statistics import is_parameter
from sgdm.errors import FileError

__all__ = ["Contents", "Setting", "opened", "plain_setting"]

_OPTIMIZER = ("optimizer", "optimizer_state_dict", "optim", "optimizer_states")
_MODEL = ("model", "model_state_dict", "state_dict")
_LONGEST_SETTING = 100
# What a setting of a group may be.
Setting: TypeAlias = bool | int | float | str | torch.dtype | None
_STATE_DICT = "give {'model': model.state_dict(), 'optimizer': optimizer.state_dict()}"


@dataclass(slots=True)
class Contents:
    """A checkpoint of torch, sorted out.

    Attributes:
        archive: Where the tensors of the optimizer lie.
        groups: The optimizer's, as saved.
        state: By the identity of a parameter in the groups.
        identities: Of the parameters in the order of the groups.
        model: The model's tensors, by name, in its order; None where the file has no model.
        model_archive: Where they lie.
        steps: Updates done.
        guessed: The key that the model was taken to be under, which is none of the usual.
        rest: What else there is, by name.
    """

    archive: Archive
    groups: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    state: dict[Any, dict[str, Any]] = field(default_factory=dict[Any, dict[str, Any]])
    identities: list[int | str] = field(default_factory=list[int | str])
    model: dict[str, View] | None = None
    model_archive: Archive | None = None
    steps: int | None = None
    guessed: str | None = None
    rest: list[str] = field(default_factory=list[str])

    def broken(self, place: str, problem: str, remedy: str = "take an intact copy") -> FileError:
        """Return the error of this file."""
        return broken(self.archive.path, place, problem, remedy)

    def names(self) -> list[str]:
        """Return the names of the optimizer's parameters, in its order.

        Its own, where it was built with named_parameters() or keyed by name; else the model's, in
        the model's order; else its numbers.

        Raises:
            FileError: If the model has not as many.
        """
        if any("param_names" in group for group in self.groups):
            given = [_list(group.get("param_names")) for group in self.groups]
            names = [name for its in given for name in its]
            counts = [len(_list(group["params"])) for group in self.groups]
            fits = [len(its) for its in given] == counts
        elif not self.infers_names():
            names, fits = [str(identity) for identity in self.identities], True
        else:
            names, fits = self._parameters(), True
            if len(names) != len(self.identities):
                raise self.broken(
                    "param_groups",
                    f"the optimizer has {len(self.identities)} parameters, the model {len(names)} "
                    "(floating-point ones, BatchNorm's statistics apart), and the optimizer does "
                    "not name its own",
                    "build it with SGD(model.named_parameters(), ...) before it is saved, or give "
                    "the weights it was stepping",
                )
        if not fits or not all(isinstance(name, str) for name in names):
            raise self.broken("param_groups", "param_names does not name every parameter once")
        if len(set(names)) < len(names):
            raise self.broken("param_groups", "two parameters have one name")
        return names

    def infers_names(self) -> bool:
        """Whether the optimizer names nothing, so that the model's order has to be its own."""
        named = any("param_names" in group for group in self.groups)
        numbered = {type(identity) for identity in self.identities} == {int}
        return not named and numbered and self.model is not None

    def tied(self, names: list[str]) -> dict[str, str]:
        """Return the names of tensors that have another name: one of `names`, or the first."""
        model = self.model or {}
        owners: dict[View, str] = {}
        for name in (*names, *model):
            if name in model:
                owners.setdefault(model[name], name)
        return {name: owners[view] for name, view in model.items() if owners[view] != name}

    def _parameters(self) -> list[str]:
        """Return the names of the model's parameters; of tied ones, the first."""
        model, tied = self.model or {}, self.tied([])
        return [
            name
            for name, view in model.items()
            if name not in tied and is_parameter(name, view.dtype)
        ]


@contextmanager
def opened(path: Path, weights: Path | None = None) -> Generator[Contents]:
    """Open a file of torch.save, and a second one with the model, and sort them out.

    Raises:
        FileError: If one cannot be read, or is of another kind.
    """
    with open_archive(path) as archive:
        contents = _sorted_out(archive, with_model=weights is None)
        if weights is None:
            yield contents
            return
        with open_archive(weights) as second:
            model = _sorted_out(second)
            if model.model is None:
                raise model.broken("pickle", "holds no weights", "give a model's state_dict()")
            contents.model, contents.model_archive = model.model, second
            yield contents


def plain_setting(contents: Contents, place: str, value: Any) -> Setting:
    """Return a group's setting as plain Python, a tensor of one element as its number.

    Never a list or tuple, which a file can nest so that showing or comparing it takes for ever.

    Raises:
        FileError: If it is neither, not finite, or a long text.
    """
    if isinstance(value, View) and math.prod(value.shape) == 1:
        value = contents.archive.stored(value, place).read().item()
    infinite = isinstance(value, float) and not math.isfinite(value)
    long = isinstance(value, str) and len(value) > _LONGEST_SETTING
    if infinite or long or not isinstance(value, Setting):
        raise contents.broken(place, f"is {_kind(value)}, no finite number or setting")
    return value


def _sorted_out(archive: Archive, *, with_model: bool = True) -> Contents:
    content = archive.content
    contents = Contents(archive, model_archive=archive)
    if not isinstance(content, dict):
        raise contents.broken("pickle", f"holds {_kind(content)}, no state_dict", _STATE_DICT)
    content = cast("dict[Any, Any]", content)
    steps = content.get("steps")
    if type(steps) is int and steps >= 0:
        contents.steps = steps
    if _is_optimizer(content):
        _take_optimizer(contents, content)
        return contents
    # A name of something, {"optim": "sgd"}, is a setting.
    kinds = (dict, list, Inert)
    optimizer = next((key for key in _OPTIMIZER if isinstance(content.get(key), kinds)), None)
    model = next((key for key in _MODEL if isinstance(content.get(key), kinds)), None)
    if model is None and with_model:
        model = contents.guessed = _only_weights(contents, content)
    if optimizer is not None:
        _take_optimizer(contents, content[optimizer])
    if model is not None:
        _take_model(contents, content[model])
    elif optimizer is None:
        _take_model(contents, content)
    if optimizer is not None or model is not None:
        taken = {optimizer, model, "steps"}
        contents.rest += [str(key) for key in content if key not in taken]
    return contents


def _only_weights(contents: Contents, content: dict[Any, Any]) -> Any:
    """Return the key of the only model there is, among what is none."""
    if any(isinstance(value, View) for value in content.values()):
        return None  # it is a model itself
    found = [key for key, value in content.items() if _is_model(_dict(value))]
    if len(found) > 1:
        raise contents.broken(
            "pickle",
            f"each of {listed([str(key) for key in found])} could be the model",
            "save it under 'model'",
        )
    return found[0] if found else None


def _is_model(value: dict[Any, Any]) -> bool:
    tensors = [view for view in value.values() if isinstance(view, View)]
    return bool(tensors) and len(tensors) == len(value)


def _is_optimizer(value: dict[Any, Any]) -> bool:
    return {"state", "param_groups"} <= value.keys()


def _take_model(contents: Contents, saved: Any) -> None:
    if not isinstance(saved, dict):
        raise contents.broken("model", f"is {_kind(saved)}", "save the model's state_dict()")
    entries = {str(name): view for name, view in _dict(saved).items()}
    tensors = {name: view for name, view in entries.items() if isinstance(view, View)}
    if not any(is_parameter(name, view.dtype) for name, view in tensors.items()):
        problem = f"holds neither weights nor a state of SGD, but {listed(list(entries)) or 'none'}"
        raise contents.broken("pickle", problem, _STATE_DICT)
    contents.model = tensors
    contents.rest += [name for name in entries if name not in tensors]


def _take_optimizer(contents: Contents, saved: Any) -> None:
    if len(states := _list(saved)) == 1:
        saved = states[0]  # Lightning keeps a list
    if not isinstance(saved, dict) or not _is_optimizer(_dict(saved)):
        problem = f"is {_kind(saved)} without state and param_groups"
        raise contents.broken("optimizer", problem, "save the optimizer's state_dict()")
    state, groups = _dict(saved)["state"], _list(_dict(saved)["param_groups"])
    if not isinstance(state, dict) or not groups:
        raise contents.broken("optimizer", "its state is no dict, or it has no param_groups")
    for number, group in enumerate(groups):
        if not isinstance(_dict(group).get("params"), list):
            raise contents.broken(f"param_groups[{number}]", "has no list of params")
        contents.groups.append(_dict(group))
        contents.identities += group["params"]
    if {type(identity) for identity in contents.identities} not in ({int}, {str}, set[type]()):
        raise contents.broken("param_groups", "its params are neither numbers nor names")
    known = set(contents.identities)
    if len(known) < len(contents.identities):
        raise contents.broken("param_groups", "holds a parameter twice")
    for identity, held in _dict(state).items():
        if identity not in known or not isinstance(held, dict):
            raise contents.broken(f"state[{str(identity)[:100]}]", "belongs to no parameter")
        contents.state[identity] = _dict(held)


def _dict(value: Any) -> dict[Any, Any]:
    """Return a value that a pickle made if it is a dict, else an empty one."""
    return cast("dict[Any, Any]", value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    """Return a value that a pickle made if it is a list, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def _kind(value: Any) -> str:
    """Name a value for a message, without showing what a file made of it."""
    if isinstance(value, Inert):
        return f"a pickled {value.name[:100]}"
    if isinstance(value, View):
        return "a tensor"
    return f"{value}" if type(value) in (bool, int, float) else f"a {type(value).__name__}"
