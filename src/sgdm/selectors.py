"""What of a model is meant: its parameters by name, by layer, by kind.

A selector is a glob, a regular expression, a module class or one of the `WORDS`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import translate
from typing import NamedTuple, cast

from torch import nn
from torch.nn.parameter import Parameter, is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError

__all__ = ["Place", "Selector", "parameters_of", "predicate", "shortened", "unmatched", "written"]

Selector = str | re.Pattern[str] | type[nn.Module]

_MOST_CHARACTERS = 72  # of names in a line

# ---- the model ----


class Place(NamedTuple):
    """Where a model has a parameter.

    Attributes:
        param: The parameter; a tied one has several places.
        name: Its full name.
        own_name: Its name in its layer.
        layer: The module that it belongs to.
        modules: All that it is in, from the model down.
    """

    param: Parameter
    name: str
    own_name: str
    layer: nn.Module
    modules: list[nn.Module]


def parameters_of(model: nn.Module) -> list[list[Place]]:
    """Return the places of each parameter, in the model's order.

    Raises:
        InvalidTypeError: If it is no module.
        InvalidUseError: If it has lazy modules that have seen no batch, or is a wrapper that
            renames its parameters.
        InvalidValueError: If nothing in it is trainable.
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidTypeError.of(
            "model", "an nn.Module", model, "pass the model itself: its layers are looked at"
        )
    modules = dict(_named_modules(model))
    found: dict[Parameter, list[Place]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        found.setdefault(param, []).append(_place(name, param, modules))
    lazy = [places[0].name for param, places in found.items() if is_lazy(param)]
    if lazy:
        raise InvalidUseError(
            "model must have parameters with shapes, got uninitialized ones of lazy modules "
            f"({shortened(lazy)}); run a batch through it first"
        )
    if not any(param.requires_grad for param in found):
        raise InvalidValueError.of(
            "model",
            "a module with trainable parameters",
            f"{type(model).__name__} with {len(found)} parameters, 0 of them trainable",
            "set requires_grad of what is to be trained",
        )
    return list(found.values())


def _named_modules(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    return model.named_modules(remove_duplicate=False)  # pyright: ignore[reportUnknownVariableType]


def _place(name: str, param: Parameter, modules: dict[str, nn.Module]) -> Place:
    parts = name.split(".")
    paths = [".".join(parts[:i]) for i in range(len(parts))]
    if paths[-1] not in modules:
        raise InvalidUseError(
            f"model must have its parameters by the names of its modules, got {name!r} of a "
            f"{type(modules['']).__name__}, which has no module {paths[-1]!r}; give the model that "
            "it wraps"
        )
    around = [modules[path] for path in paths]
    if isinstance(around[-1], ParametrizationList):  # layer.parametrizations.weight.original
        return Place(param, name, parts[-2], around[-3], around)
    return Place(param, name, parts[-1], around[-1], around)


# ---- what selects ----

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_NAMED_AS_NORM = re.compile(r".*Norm(\dd)?")  # torch's, all of them, and others'
_NAMED_AS_BIAS = re.compile(r".*bias|bias_.*")  # also in_proj_bias, and bias_hh_l0 of RNNs


def _is_norm(layer: nn.Module) -> bool:
    return any(_NAMED_AS_NORM.fullmatch(base.__name__) for base in type(layer).__mro__)


WORDS: dict[str, Callable[[Place], bool]] = {
    "bias": lambda place: _NAMED_AS_BIAS.fullmatch(place.own_name) is not None,
    "norm": lambda place: _is_norm(place.layer),
    "embedding": lambda place: isinstance(place.layer, _EMBEDDINGS),
    "1d": lambda place: place.param.ndim <= 1,
}
_OF_LAYERS = ("norm", "embedding")


def predicate(argument: str, selector: object) -> Callable[[Place], bool]:
    """Return what tells whether the parameter in a place is selected.

    Raises:
        InvalidTypeError: If `selector`, an element of `argument`, is of another type.
    """
    if isinstance(selector, type) and issubclass(selector, nn.Module):
        return lambda place: any(isinstance(module, selector) for module in place.modules)
    if isinstance(selector, str) and selector in WORDS:
        return WORDS[selector]
    if isinstance(selector, str):
        selector = re.compile(translate(selector))
    if isinstance(selector, re.Pattern) and isinstance(selector.pattern, str):
        whole = cast("re.Pattern[str]", selector)
        return lambda place: whole.fullmatch(place.name) is not None
    raise InvalidTypeError.of(
        argument,
        "made of globs, patterns of re.compile, module classes, and words "
        f"({', '.join(map(repr, WORDS))})",
        cast("object", selector),
        "write a name as a string, a kind of layer as its class",
    )


def unmatched(
    argument: str, selector: Selector, parameters: list[list[Place]]
) -> InvalidValueError:
    """Return the error of a selector that selects nothing: it says what is there."""
    places = [place for each in parameters for place in each]
    if isinstance(selector, type) or selector in _OF_LAYERS:
        kind = "layers"
        there = [type(module).__name__ for place in places for module in place.modules]
    else:
        kind = "names"
        there = [place.name for place in places]
        dots = [(name, dot.start()) for name in there for dot in re.finditer(r"\.", name)]
        there += [f"{name[:dot]}.*" for name, dot in dots]
    name = selector if isinstance(selector, str) else written(selector)
    nearest = get_close_matches(name, dict.fromkeys(there), n=3, cutoff=0.0)
    return InvalidValueError.of(
        argument,
        "made of what selects a parameter",
        selector,
        f"the nearest {kind} are {', '.join(nearest)}; correct it, or leave it out",
    )


def written(selector: Selector) -> str:
    """Return a selector as a message has it."""
    if isinstance(selector, type):
        return selector.__name__
    return repr(selector if isinstance(selector, str) else selector.pattern)


def shortened(names: Sequence[str]) -> str:
    """Write names in a line: if that is too long, as one where only numbers differ, and counted."""
    whole = ", ".join(names)
    if len(whole) <= _MOST_CHARACTERS:
        return whole
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    for name in names:
        pieces = re.split(r"(\d+)", name)
        alike.setdefault(tuple(pieces[::2]), []).append(pieces)
    told, left = "", len(names)
    for each in alike.values():
        columns = zip(*each, strict=True)
        text = "".join(column[0] if len(set(column)) == 1 else "*" for column in columns)
        text += f" ({len(each)})" if len(each) > 1 else ""
        if told and len(told) + len(text) > _MOST_CHARACTERS:
            return f"{told} and {left} more"
        told += f"{', ' if told else ''}{text}"
        left -= len(each)
    return told
