"""Rules behind a wall: nothing is seen of them but the arguments that are let through."""

import inspect
from typing import Any

import torch

import sgdm
from sgdm import Hyperparameters, coefficients

KNOBS = ("momentum", "dampening", "weight_decay", "nesterov")


def arguments_of(row) -> dict[str, Any]:
    """What a framework with this rule would let its user set, and what it must be given."""
    knobs = {"momentum": 0.9, "weight_decay": 0.0}
    if row.gain == "1-dampening":
        knobs["dampening"] = 0.0
    if row.nesterov == "optional":
        knobs["nesterov"] = False
    if row.look_ahead == "nu":
        knobs["nu"] = 0.7
    return knobs


class BlackBox:
    """A factory that makes a rule, with some arguments fixed and the others open.

    Attributes:
        open: The names that a user may set, besides lr.
    """

    def __init__(self, make, fixed: dict[str, Any], open_: tuple[str, ...]) -> None:
        self._make, self._fixed, self.open = make, fixed, open_
        empty = inspect.Parameter.POSITIONAL_OR_KEYWORD
        names = ("params", "lr", *open_)
        self.__signature__ = inspect.Signature([inspect.Parameter(name, empty) for name in names])

    def __call__(self, params, **given):
        return Shown(self._make(params, **{**self._fixed, **given}), ("lr", *self.open))


class Shown:
    """An optimizer of which some hyperparameters can be reached."""

    def __init__(self, optimizer, names: tuple[str, ...]) -> None:
        self._optimizer = optimizer
        self.param_groups = [_Window(optimizer.param_groups[0], names)]

    def step(self, closure):
        return self._optimizer.step(closure)


class _Window(dict):
    """The part of a group that is shown; what is written goes to the group."""

    def __init__(self, group, names) -> None:
        super().__init__({name: group[name] for name in names if name in group})
        self._group = group

    def __setitem__(self, name, value) -> None:
        super().__setitem__(name, value)
        self._group[name] = value


def of_row(row, open_: tuple[str, ...], fixed: dict[str, Any]) -> BlackBox:
    """A rule of the table."""

    def make(params, **given):
        return sgdm.SGD(params, convention=row.name, engine="eager", **given)

    return BlackBox(make, fixed, open_)


class Bent(torch.optim.Optimizer):
    """A rule of the table with one coefficient that is a little off."""

    def __init__(self, params, row, name: str, factor: float, **given) -> None:
        super().__init__(params, given)
        self._row, self._name, self._factor = row, name, factor

    @torch.no_grad()
    def step(self, closure=None) -> Any:
        assert closure is not None
        closure()
        (group,) = self.param_groups
        (p,) = group["params"]
        state = self.state[p]
        given = {name: value for name, value in group.items() if name != "params"}
        state.setdefault("lr0", given["lr"])
        h = Hyperparameters(**given, lr0=state["lr0"], last_momentum=state.get("last"))
        state["last"] = h.momentum
        c = coefficients(self._row, h, first="b" not in state)
        bent = {self._name: getattr(c, self._name) * self._factor}
        retain, gain = bent.get("retain", c.retain), bent.get("gain", c.gain)
        step = bent.get("step", c.step)
        d = p.grad + c.coupled_decay * p
        b = state.get("b", torch.zeros_like(p))
        if c.buffer in ("first", "running"):
            b = state["b"] = retain * b + gain * d
        p.copy_(c.keep * p + step * (c.buffer_weight * b + c.gradient_weight * d))
