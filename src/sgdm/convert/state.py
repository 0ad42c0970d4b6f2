"""Conversion of optimizer state between conventions: in a running optimizer or a state dict."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from sgdm.convention import Convention, with_momentum_correction
from sgdm.convert.setting import Setting
from sgdm.convert.state_map import StateMap, state_map
from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError
from sgdm.frameworks import get_convention
from sgdm.group import ITERATE_WEIGHT, LAST_MOMENTUM, as_float, convention_of
from sgdm.optimizer import SGD
from sgdm.state import AVERAGE, BUFFER, STEPS

__all__ = ["convert_", "convert_state_dict"]

# What torch's own dicts do not have.
_DEFAULTS: dict[str, Any] = {
    "convention": "torch",
    "correct_momentum": False,
    "weight_decay_mode": None,
    "nu": None,
    "lr0": None,
}


def convert_(
    optimizer: SGD,
    *,
    to: str,
    correct_momentum: bool = False,
    port: bool = False,
    lr: float | Sequence[float] | None = None,
    momentum: float | None = None,
) -> None:
    """Change the convention of a running optimizer, in place, without a change of its trajectory.

    With T of `sgdm.convert.state_map`, b becomes u*Θ + s*b: a factor between rules that differ by
    the place of the learning rate, the sign or the gain. From "torch" to "keras" it is -ε.

    Args:
        optimizer: Converted in place: buffers, groups, and parameters where the target stores
            another point.
        to: The target's name.
        correct_momentum: Correct the target's momentum.
        port: Take the target's hyperparameters from `port_hyperparameters` where the same ones
            would make another trajectory.
        lr: ε of the coming step, or one for each group, where a scheduler has yet to write it;
            None for what the groups hold.
        momentum: μ of the coming step; None for what the groups hold.

    Raises:
        InvalidUseError: If the two rules are not the same with these hyperparameters, the map would
            divide by zero, or parameters have yet to make a first step that would be another. The
            text says what would work. Nothing is changed then.
        InvalidValueError: If a name is unknown or a value out of range.
        InvalidTypeError: If the optimizer is another one, or a value no number.

    Example:
        >>> import torch, sgdm
        >>> p = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = sgdm.SGD([p], lr=0.5, momentum=0.9)
        >>> p.grad = torch.ones(1)
        >>> optimizer.step()
        >>> sgdm.convert_(optimizer, to="keras")
        >>> optimizer.state[p]["momentum_buffer"]
        tensor([-0.5000])

    Reference:
        A change of coordinates of a linear system (Kalman 1963).
    """
    if not isinstance(optimizer, SGD):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidTypeError.of(
            "optimizer",
            "an sgdm.SGD",
            type(optimizer),
            "take a torch.optim.SGD over with sgdm.SGD.from_torch first, or convert its state dict",
        )
    optimizer.refuse_while_shown("convert_")
    target = _target(to, correct_momentum=correct_momentum)
    lrs = _for_groups(lr, len(optimizer.param_groups))
    maps = [
        _map_of(group, target, lr=own, momentum=momentum, port=port)
        for group, own in zip(optimizer.param_groups, lrs, strict=True)
    ]
    changes: list[tuple[Tensor, dict[str, Any], Tensor | None]] = []
    for group, found in zip(optimizer.param_groups, maps, strict=True):
        for name, param in zip(_names(group), group["params"], strict=True):
            state = optimizer.state.get(param, {})
            if _has_yet_to_begin(state):
                found.check_first_step(name)
            if state.get(BUFFER) is not None:
                converted = _converted(found, state, param.detach())
                moved = None
                if found.moves_parameter:
                    moved = found.parameter(param.detach(), state[BUFFER])
                changes.append((param, converted, moved))
    for param, state, moved in changes:
        optimizer.state[param] = state
        if moved is not None:
            with torch.no_grad():
                param.copy_(moved)
    for group, found in zip(optimizer.param_groups, maps, strict=True):
        group.update(_group(group, found, correct_momentum=correct_momentum))
    optimizer.defaults.update(convention=target.name, correct_momentum=correct_momentum)


def convert_state_dict(
    state_dict: Mapping[str, Any],
    *,
    to: str,
    source: str | None = None,
    correct_momentum: bool = False,
    port: bool = False,
    lr: float | Sequence[float] | None = None,
    momentum: float | None = None,
) -> dict[str, Any]:
    """Return a state dict for another convention, from which the trajectory goes on unchanged.

    Args:
        state_dict: Of `sgdm.SGD` or `torch.optim.SGD`; left as it is.
        to: The target's name. A dict for "torch" is one that `torch.optim.SGD` loads.
        source: The convention of the dict, where it does not say; None for what it says, or torch.
        correct_momentum: As for `convert_`.
        port: As for `convert_`.
        lr: As for `convert_`.
        momentum: As for `convert_`.

    Raises:
        InvalidUseError: As for `convert_`; also where the parameters themselves are needed, which a
            state dict does not hold.
        InvalidValueError: If a name is unknown, a value out of range, `source` is not what the
            dict says, or the dict is of another optimizer.
        InvalidTypeError: If a value is no number.

    Example:
        >>> import torch, sgdm
        >>> p = torch.nn.Parameter(torch.zeros(1))
        >>> old = torch.optim.SGD([p], lr=0.5, momentum=0.9)
        >>> p.grad = torch.ones(1)
        >>> old.step()
        >>> new = sgdm.SGD([p], lr=0.5, momentum=0.9, convention="keras")
        >>> new.load_state_dict(sgdm.convert_state_dict(old.state_dict(), to="keras"))
        >>> new.state[p]["momentum_buffer"]
        tensor([-0.5000])

    Reference:
        As for `convert_`.
    """
    target = _target(to, correct_momentum=correct_momentum)
    saved = _checked(state_dict)
    lrs = _for_groups(lr, len(saved))
    state: dict[Any, Any] = dict(state_dict["state"])
    groups: list[dict[str, Any]] = []
    for own, own_lr in zip(saved, lrs, strict=True):
        group = {**_DEFAULTS, **_of_source(own, source)}
        # torch.optim.SGD, which loads it, knows one decay.
        own_decay = target.name == "torch"
        found = _map_of(group, target, lr=own_lr, momentum=momentum, port=port, own_decay=own_decay)
        if found.needs_parameter:
            raise InvalidUseError(
                "convert_state_dict() must be called on buffers that convert by themselves: from "
                f"{group['convention']!r} to {to!r} the parameters are needed; load the dict into "
                "an optimizer and use convert_"
            )
        for name, index in zip(_names(own), own["params"], strict=True):
            held = state.get(index, {})
            if _has_yet_to_begin(held):
                found.check_first_step(name)
            if held.get(BUFFER) is not None:
                state[index] = _converted(found, held, None)
        groups.append({**group, **_group(group, found, correct_momentum=correct_momentum)})
    return {**state_dict, "state": state, "param_groups": groups}


def _target(name: str, *, correct_momentum: bool) -> Convention:
    row = get_convention(name)
    if not row.runs:
        raise InvalidUseError(f"state cannot be converted to {row.name!r}: {row.obstacle}")
    return with_momentum_correction(row) if correct_momentum else row


def _checked(state_dict: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the groups of a state dict, having checked that it is one of SGD."""
    groups, state = state_dict.get("param_groups"), state_dict.get("state")
    needed = {"params", "lr", "momentum", "dampening", "weight_decay", "nesterov"}
    whole = isinstance(groups, list) and isinstance(state, Mapping)
    for group in cast("list[Any]", groups) if whole else []:
        whole = whole and isinstance(group, Mapping) and needed <= cast("Any", group).keys()
    for held in cast("Mapping[Any, Any]", state).values() if whole else ():
        buffer = cast("Any", held).get(BUFFER) if isinstance(held, Mapping) else held
        whole = whole and (buffer is None or isinstance(buffer, Tensor))
    if not whole:
        raise InvalidValueError.of(
            "state_dict",
            "one of sgdm.SGD or torch.optim.SGD",
            list(state_dict),
            "pass optimizer.state_dict()",
        )
    return cast("list[dict[str, Any]]", groups)


def _of_source(group: dict[str, Any], source: str | None) -> dict[str, Any]:
    """Return a saved group with its convention by name."""
    if source is None:
        return group
    name = get_convention(source).name
    said = group.get("convention", name)
    if said != name:
        raise InvalidValueError.of(
            "source", f"{said!r}, which the state dict says", source, "leave it out"
        )
    return {**group, "convention": name}


def _for_groups(lr: float | Sequence[float] | None, count: int) -> list[float | None]:
    """Return one learning rate for each group."""
    if isinstance(lr, str) or not isinstance(lr, Sequence):  # a text is refused as one
        return [cast("float | None", lr)] * count
    if len(lr) != count:
        raise InvalidValueError.of(
            "lr", f"a number, or {count} of them, one for each group", len(lr), "give as many"
        )
    return list(lr)


def _map_of(
    group: dict[str, Any],
    target: Convention,
    *,
    lr: float | None,
    momentum: float | None,
    port: bool,
    own_decay: bool = False,
) -> StateMap:
    """Return the map of a group's state."""
    last = group.get(LAST_MOMENTUM)
    source = Setting(
        convention=convention_of(group),
        lr=_plain(group["lr"] if lr is None else lr),
        momentum=_plain(group["momentum"] if momentum is None else momentum),
        last_momentum=None if last is None else _plain(last),
        dampening=_plain(group["dampening"]),
        weight_decay=_plain(group["weight_decay"]),
        nesterov=group["nesterov"],
        nu=group["nu"],
        lr0=group["lr0"],
        weight_decay_mode=group["weight_decay_mode"],
    )
    return state_map(source, target, port_values=port, own_decay=own_decay)


def _plain(value: Any) -> Any:
    """Return a tensor of one element as its number."""
    return as_float(value) if isinstance(value, Tensor) and value.numel() == 1 else value


def _names(group: dict[str, Any]) -> Sequence[Any]:
    return group.get("param_names") or range(len(group["params"]))


def _has_yet_to_begin(state: Mapping[str, Any]) -> bool:
    """Whether the first step of a parameter is to come."""
    return state.get(BUFFER) is None or state.get(STEPS) == 0


def _converted(found: StateMap, state: Mapping[str, Any], param: Tensor | None) -> dict[str, Any]:
    """Return a parameter's state with its buffer converted."""
    kept = dict(state)
    kept[BUFFER] = found.buffer(state[BUFFER], param)
    if found.moves_parameter and kept.pop(AVERAGE, None) is not None:
        warnings.warn(
            "the moving averages are dropped: they are of another point than the converted "
            "optimizer stores",
            stacklevel=3,
        )
    return kept


def _group(group: dict[str, Any], found: StateMap, *, correct_momentum: bool) -> dict[str, Any]:
    """Return what a group has to say after its conversion."""
    to = found.to
    weight = group.get(ITERATE_WEIGHT)
    if weight is not None:
        weight = None if found.needs_parameter else weight / found.s
    settings = found.settings()
    if not found.ported:  # a scheduler may have written others, for other steps
        for name in ("lr", "momentum", "weight_decay"):
            del settings[name]
    return {
        **{name: value for name, value in settings.items() if name != LAST_MOMENTUM or value},
        "convention": to.convention.name,
        "correct_momentum": correct_momentum,
        ITERATE_WEIGHT: weight,
    }
