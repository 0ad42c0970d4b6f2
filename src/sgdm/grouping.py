"""A model's parameters sorted into groups: by name, by kind of layer, by multiplier."""

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from numbers import Real
from typing import Any, NamedTuple, cast

from torch import nn

from sgdm.errors import InvalidTypeError, InvalidValueError
from sgdm.hyperparameters import check_range
from sgdm.selectors import Place, Selector, parameters_of, predicate, shortened, unmatched, written

__all__ = ["ParamGroups", "param_groups"]

Multipliers = Mapping[Any, float]  # of selectors; a dict of strings alone would not be one of those


class ParamGroups(list[dict[str, Any]]):
    """Groups for an optimizer: a list of dicts, which prints as a table.

    An optimizer takes the dicts over and writes into them: make new groups for a second one. The
    table shows what is in the dicts at the moment, so after that the optimizer's numbers.

    Args:
        groups: The dicts.
        frozen: Names of parameters that are in none of them.

    Attributes:
        frozen: As given.

    Example:
        >>> import torch, sgdm
        >>> groups = sgdm.param_groups(torch.nn.Linear(3, 2), weight_decay=5e-4, no_decay="bias")
        >>> print(groups)
        group           lr  weight decay  tensors  elements  parameters
            0  optimizer's        0.0005        1         6  weight
            1  optimizer's             0        1         2  bias
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]] = (), *, frozen: Sequence[str] = ()
    ) -> None:
        super().__init__(groups)
        self.frozen = tuple(frozen)

    def __str__(self) -> str:
        head = ("group", "lr", "weight decay", "tensors", "elements", "parameters")
        rows = [head, *(_row(i, group) for i, group in enumerate(self))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
        lines = [
            "  ".join([*(f"{it:>{n}}" for it, n in zip(row, widths, strict=False)), row[-1]])
            for row in rows
        ]
        if self.frozen:
            lines.append(f"left out, since requires_grad is False: {shortened(self.frozen)}")
        return "\n".join(lines)


def param_groups(
    model: nn.Module,
    *,
    weight_decay: float | None = None,
    no_decay: Selector | Iterable[Selector] = (),
    lr: float | None = None,
    lr_mult: Multipliers | None = None,
    decay_mult: Multipliers | None = None,
) -> ParamGroups:
    """Sort a model's parameters into groups for `sgdm.SGD`, or any optimizer of torch.

    A parameter is selected by

    - a glob of its full name, such as "layer1.*.bias": the whole name, upper and lower case told
      apart; * stands for any characters, dots too;
    - a pattern of `re.compile`, which has to match the whole name;
    - a class, such as `nn.LayerNorm`: the parameters of its modules and of all that is in them;
    - one of four words: "bias", whose own name ends in `bias` or begins with `bias_`; "norm", which
      belongs to a layer whose class, or one that it is derived from, is called ...Norm or
      ...Norm2d; "embedding", which belongs to an `nn.Embedding` or `nn.EmbeddingBag`; "1d", with
      one axis or none.

    Of several multipliers that select a parameter it gets the product; `no_decay` is a multiplier
    of 0. Tied parameters are one, which is selected by any of its names and places. Parameters with
    requires_grad=False are left out: make the groups before you freeze what is to be trained later.

    Args:
        model: The model. Only names, layers and shapes are looked at.
        weight_decay: λ >= 0, which each group gets times its multipliers; None leaves it to the
            optimizer's argument, where nothing multiplies it.
        no_decay: What does not decay: one selector or several.
        lr: ε >= 0, likewise.
        lr_mult: By what the learning rate of a selector's parameters is multiplied, >= 0.
        decay_mult: The same of the weight decay.

    Returns:
        The groups, as many as there are different multipliers; first the one with neither, where
        there is one, the others in the order of the model. The parameters are (name, parameter)
        pairs, from which torch makes the group's `param_names`.

    Raises:
        InvalidValueError: If a selector selects nothing, a number is out of range or not finite,
            `lr` or `weight_decay` is multiplied and not given, `no_decay` and `decay_mult`
            contradict each other, or nothing is trainable.
        InvalidTypeError: If an argument is of another type.
        InvalidUseError: If the model has parameters without a shape yet, of lazy modules, or is a
            wrapper that renames its parameters.

    Example:
        >>> import torch, sgdm
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
        >>> groups = sgdm.param_groups(model, weight_decay=5e-4, no_decay=("norm", "bias"))
        >>> optimizer = sgdm.SGD(groups, lr=0.1, momentum=0.9)
        >>> [group["param_names"] for group in optimizer.param_groups]
        [['0.weight'], ['0.bias', '1.weight', '1.bias']]
    """
    lr_rules = _multipliers("lr_mult", lr_mult)
    decay_rules = _decay_rules(no_decay, decay_mult)
    _check_base("lr", lr, lr_rules)
    _check_base("weight_decay", weight_decay, decay_rules)
    parameters = parameters_of(model)
    for rule in (*lr_rules, *decay_rules):
        if not any(map(rule.selects, chain.from_iterable(parameters))):
            raise unmatched(rule.argument, rule.selector, parameters)
    by_factors: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {(1.0, 1.0): []}
    frozen: list[str] = []
    for places in parameters:
        name, param = places[0].name, places[0].param
        if not param.requires_grad:
            frozen.append(name)
            continue
        factors = _product(lr_rules, places), _product(decay_rules, places)
        by_factors.setdefault(factors, []).append((name, param))
    return ParamGroups(
        (
            {"params": pairs}
            | _times("lr", lr, of_lr)
            | _times("weight_decay", weight_decay, of_decay)
            for (of_lr, of_decay), pairs in by_factors.items()
            if pairs
        ),
        frozen=frozen,
    )


# ---- multipliers ----


class _Rule(NamedTuple):
    """A multiplier and what it is for.

    Attributes:
        argument: Where it was given.
        selects: Whether it is for the parameter in a place.
    """

    argument: str
    selector: Selector
    factor: float
    selects: Callable[[Place], bool]


def _multipliers(argument: str, given: Multipliers | None) -> list[_Rule]:
    if not isinstance(given, Mapping | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidTypeError.of(
            argument, "a mapping of selectors to multipliers", given, "such as {'bias': 2}"
        )
    rules = [_Rule(argument, it, x, predicate(argument, it)) for it, x in (given or {}).items()]
    for rule in rules:
        name = f"{argument}[{written(rule.selector)}]"
        remedy = "1 changes nothing, 0 switches off"
        if not isinstance(rule.factor, Real):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidTypeError.of(name, "a number", rule.factor, remedy)
        if not 0 <= rule.factor <= sys.float_info.max:  # an int may be beyond every float
            raise InvalidValueError.of(name, "a finite number >= 0", rule.factor, remedy)
    return rules


def _decay_rules(
    no_decay: Selector | Iterable[Selector], decay_mult: Multipliers | None
) -> list[_Rule]:
    """Return the multipliers of both arguments, which must agree."""
    given: Any = no_decay
    if isinstance(no_decay, (str, re.Pattern, type)) or not isinstance(given, Iterable):
        given = (no_decay,)
    selectors = cast("Iterable[Selector]", given)
    rules = [_Rule("no_decay", it, 0.0, predicate("no_decay", it)) for it in selectors]
    never = {rule.selector for rule in rules}
    multiplied = _multipliers("decay_mult", decay_mult)
    for rule in multiplied:
        if rule.factor != 0 and rule.selector in never:
            raise InvalidValueError.of(
                f"decay_mult[{written(rule.selector)}]",
                "0 for what is in no_decay",
                rule.factor,
                "give it in one of the two",
            )
    return rules + multiplied


def _check_base(name: str, value: float | None, rules: list[_Rule]) -> None:
    """Check the number that is multiplied."""
    if value is None:
        if rules:
            raise InvalidValueError.of(
                name,
                f"given with {rules[0].argument}",
                None,
                f"pass {name}=..., of which each group gets its multiple",
            )
        return
    if not isinstance(value, Real):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidTypeError.of(
            name, "a number, of which each group gets its own", value, f"pass {name}=float(...)"
        )
    check_range(name, value)


def _product(rules: list[_Rule], places: list[Place]) -> float:
    return math.prod(float(rule.factor) for rule in rules if any(map(rule.selects, places)))


def _times(name: str, base: float | None, factor: float) -> dict[str, float]:
    if base is None:
        return {}
    value = float(base) * factor
    check_range(name, value)  # a product of finite numbers may not be finite
    return {name: value}


# ---- the table ----


def _row(index: int, group: dict[str, Any]) -> tuple[str, ...]:
    names, params = group.get("param_names"), group["params"]
    if names is None:  # no optimizer has it yet
        names, params = [name for name, _ in params], [param for _, param in params]
    lr, weight_decay = (
        f"{float(group[key]):g}" if key in group else "optimizer's"
        for key in ("lr", "weight_decay")
    )
    elements = sum(param.numel() for param in params)
    return (str(index), lr, weight_decay, str(len(params)), f"{elements:,}", shortened(names))
