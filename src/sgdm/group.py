"""A parameter group, the dict that torch keeps, as sgdm understands it.

It is checked when it is given, and read at every step: its hyperparameters become the rules that
its tensors are stepped by.
"""

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from sgdm.convention import Convention, with_momentum_correction
from sgdm.engines.native import holds
from sgdm.engines.plan import Rule
from sgdm.errors import InvalidValueError
from sgdm.frameworks import get_convention
from sgdm.hyperparameters import (
    Hyperparameters,
    check_combination,
    check_finite,
    check_lr0,
    check_nu,
    check_range,
    check_weight_decay_mode,
)
from sgdm.recurrence import (
    coefficients,
    first_step_differs,
    iterate_weight,
    look_ahead_weight,
    makes_buffer,
    needs_closure,
    stores_look_ahead,
)

__all__ = [
    "BUFFER_DTYPES",
    "ITERATE_WEIGHT",
    "LAST_MOMENTUM",
    "GroupRules",
    "KnownRules",
    "Remembered",
    "as_float",
    "check_buffer_dtype",
    "check_group",
    "convention_of",
]

# What a group keeps of its last step.
ITERATE_WEIGHT = "iterate_weight"  # θ = Θ - iterate_weight * buffer
LAST_MOMENTUM = "last_momentum"  # only where the rule decays by the previous one

_NUMBERS = ("lr", "momentum", "dampening", "weight_decay")
BUFFER_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_IMMUTABLE = {float, int, bool, str, torch.dtype, type(None)}
# A group, and the key and value that it keeps of a step.
Remembered = tuple[dict[str, Any], str, Any]

# What a group's rules are worked out from.
_GIVEN = (
    "convention",
    "lr",
    "momentum",
    "dampening",
    "weight_decay",
    "nesterov",
    "nu",
    "correct_momentum",
    "weight_decay_mode",
    "maximize",
    "ema_decay",
    "buffer_dtype",
    "lr0",
    LAST_MOMENTUM,
)


def convention_of(group: dict[str, Any]) -> Convention:
    """Return the rule of a group.

    Raises:
        InvalidValueError: If there is none of that name, or its momentum is not to be corrected.
    """
    row = get_convention(group["convention"])
    return with_momentum_correction(row) if group["correct_momentum"] else row


def check_group(group: dict[str, Any]) -> Convention:
    """Check a complete group when it is given, before anything is kept of it."""
    row = convention_of(group)
    for name in _NUMBERS:
        value = group[name]
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise InvalidValueError.of(
                    name,
                    "a tensor of one element",
                    f"{value.numel()} elements",
                    "one group has one value; give each group its own",
                    torch_text=f"Tensor {name} must be 1-element",
                )
            value = value.item()
        check_range(name, value)
    lr0 = group.get("lr0")
    if lr0 is not None:
        check_range("lr", lr0)
    check_weight_decay_mode(group["weight_decay_mode"])
    for name in ("nu", "ema_decay", LAST_MOMENTUM):
        if group.get(name) is not None:
            check_range(name, group[name])
    check_buffer_dtype(group["buffer_dtype"])  # the parameters may be a generator yet
    check_combination(
        row,
        dampening=as_float(group["dampening"]),
        nesterov=group["nesterov"],
        nu=group["nu"],
    )
    if as_float(group["weight_decay"]) != 0:
        mode = group["weight_decay_mode"] or row.weight_decay
        check_lr0(mode, as_float(group["lr"]) if lr0 is None else lr0)
    return row


def check_buffer_dtype(dtype: object, params: Iterable[Tensor] = ()) -> None:
    """Refuse buffers that could not hold the gradients of a group's parameters.

    Raises:
        InvalidValueError: If they are no floating-point ones, or real and a parameter is complex.
    """
    if dtype not in (None, *BUFFER_DTYPES):
        raise InvalidValueError.of(
            "buffer_dtype",
            "None or one of " + ", ".join(map(str, BUFFER_DTYPES)),
            dtype,
            "None stores a buffer as its parameter is",
        )
    if dtype is not None and any(p.is_complex() for p in params):
        raise InvalidValueError.of(
            "buffer_dtype",
            "None in a group with complex parameters",
            dtype,
            "their buffers are complex",
        )


class GroupRules:
    """What the hyperparameters of a group mean for its step, worked out once.

    A parameter that gets its first gradient late takes its first step inside a running group, so
    one group may need two rules: one for first steps, one for the others.

    Attributes:
        needs_closure: Whether the gradient is taken at another point than the stored one, at
            p + look_ahead_weight * b.
        look_ahead_weight: 0 where it is taken at p.
        average_weight: Weight of the new parameter in its moving average; None without one.
        counts_steps: Whether a first step is more than one from a buffer of zeros, so that "not
            yet done" is state.
        iterate_weight: w such that θ = p - w * b after the step; None where p is θ itself.
        makes_buffers: Whether first steps make buffers, were ε not 0.
        remembers: What the group keeps of a step, by its key; None where it is nothing.
    """

    __slots__ = (
        "_convention",
        "_hyperparameters",
        "_maximize",
        "_rules",
        "average_weight",
        "buffer_dtype",
        "counts_steps",
        "iterate_weight",
        "look_ahead_weight",
        "makes_buffers",
        "needs_closure",
        "remembers",
    )

    def __init__(self, group: dict[str, Any]) -> None:
        self._convention = convention = convention_of(group)
        self._hyperparameters = h = _hyperparameters(group)
        check_weight_decay_mode(h.weight_decay_mode)
        check_nu(convention, h.nu)
        ema_decay = group["ema_decay"]
        if ema_decay is not None:
            check_range("ema_decay", ema_decay)
        check_buffer_dtype(group["buffer_dtype"], group["params"])
        self._maximize: bool = group["maximize"]
        self._rules: dict[bool, Rule] = {}
        self.average_weight = None if ema_decay is None else 1 - float(ema_decay)
        self.buffer_dtype: torch.dtype | None = group["buffer_dtype"]
        self.makes_buffers = makes_buffer(convention, h)
        self.needs_closure = needs_closure(convention, h)
        self.look_ahead_weight = look_ahead_weight(convention, h)
        self.counts_steps = first_step_differs(convention, h)
        ahead = stores_look_ahead(convention, h)
        self.iterate_weight = iterate_weight(convention, h) if ahead else None
        self.remembers: tuple[str, Any] | None = None
        if ahead:
            self.remembers = (ITERATE_WEIGHT, as_float(self.iterate_weight))
        elif convention.momentum == "previous":
            self.remembers = (LAST_MOMENTUM, h.momentum)

    def rule(self, *, first: bool) -> Rule:
        """Return the rule for a parameter whose buffer has seen no gradient yet, or has."""
        rule = self._rules.get(first)
        if rule is None:
            c = coefficients(self._convention, self._hyperparameters, first=first)
            rule = self._rules[first] = Rule(
                c, self._maximize, self.average_weight, self.buffer_dtype, self._no_sparse()
            )
        return rule

    def _no_sparse(self) -> str | None:
        """Say why sparse gradients are refused: the rule is not defined for them, or decays.

        Weight decay would have to touch the rows that the gradient leaves out.
        """
        if not self._convention.sparse:
            return (
                f"sparse gradients are not defined for convention {self._convention.name!r}; "
                f"use convention='torch', or dense gradients (Embedding(sparse=False))"
            )
        if self._hyperparameters.weight_decay != 0:
            return (
                "weight_decay must be 0 with sparse gradients, which leave out the rows that it "
                f"would shrink, got {self._hyperparameters.weight_decay}; put the sparse "
                "parameters into a group with weight_decay=0"
            )
        return None


class KnownRules:
    """The rules of an optimizer's groups, kept until a hyperparameter is written.

    "Written" is decided by identity: 0, 0.0 and -0.0 are equal and do not give the same bits.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, tuple[tuple[Any, ...], GroupRules]] = {}

    def of(self, group: dict[str, Any]) -> GroupRules:
        """Return the group's rules for the coming step.

        Raises:
            InvalidValueError: If a hyperparameter is not finite.
        """
        known = self._known.get(id(group))
        if known is not None and holds(group, _GIVEN, known[0]):
            return known[1]
        rules = GroupRules(group)
        given = tuple(map(group.get, _GIVEN))
        if all(type(value) in _IMMUTABLE for value in given):  # a tensor is written in place
            self._known[id(group)] = (given, rules)
        return rules


def _hyperparameters(group: dict[str, Any]) -> Hyperparameters:
    return Hyperparameters(
        **{name: _number(name, group[name]) for name in _NUMBERS},
        nesterov=group["nesterov"],
        weight_decay_mode=group["weight_decay_mode"],
        lr0=group.get("lr0"),
        nu=_given("nu", group["nu"]),
        last_momentum=_given(LAST_MOMENTUM, group.get(LAST_MOMENTUM)),
    )


def _given(name: str, value: Any) -> Any:
    return None if value is None else _number(name, value)


def _number(name: str, value: Any) -> Any:
    """Read a hyperparameter: a finite number, or a tensor where autograd goes through it."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            return value.squeeze()
        value = value.item()
    elif isinstance(value, Integral):  # an int stays one: -0 is 0, -0.0 is not, and torch knows
        value = int(value)
    elif isinstance(value, Real):
        value = float(value)
    else:
        check_range(name, value)
    check_finite(name, value)
    return value


def as_float(value: Any) -> float:
    """Return a number or a one-element tensor as a float, outside any graph."""
    return float(value.detach()) if isinstance(value, Tensor) else float(value)
