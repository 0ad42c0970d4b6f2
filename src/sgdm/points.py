"""Where parameters stand for a while: at θ, at its look-ahead point Θ, or as their averages."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sgdm.errors import InvalidUseError
from sgdm.frameworks import get_convention
from sgdm.group import ITERATE_WEIGHT, GroupRules, as_float
from sgdm.running import move
from sgdm.state import AVERAGE, BUFFER, State

__all__ = ["averages", "copies_of", "look_ahead", "moves_to_iterate", "put_back"]

_Groups = Iterable[dict[str, Any]]
_RulesOf = Callable[[dict[str, Any]], GroupRules]


class _Move(NamedTuple):
    """A way that is made once: param + weight * buffer."""

    param: Tensor
    buffer: Tensor
    weight: float


def moves_to_iterate(groups: _Groups, state: State, rules_of: _RulesOf) -> list[_Move]:
    """Return the ways from Θ to θ of what stores Θ, with the weight of each group's last step."""
    moves: list[_Move] = []
    for group in groups:
        rules = rules_of(group)
        if rules.iterate_weight is not None:
            weight = group.get(ITERATE_WEIGHT)
            if weight is None:  # no step yet, or a dict of torch's
                weight = as_float(rules.iterate_weight)
            moves += _moves(group["params"], state, -weight)
    return moves


def averages(groups: _Groups, state: State) -> dict[Tensor, Tensor]:
    """Return the average of each parameter that has one.

    Raises:
        InvalidUseError: If no group keeps any.
    """
    averaged = [group for group in groups if group["ema_decay"] is not None]
    if not averaged:
        raise InvalidUseError(
            "averaged() must be called on an optimizer that keeps averages; build it with "
            "ema_decay, such as 0.999"
        )
    params = [param for group in averaged for param in group["params"]]
    return {p: state[p][AVERAGE] for p in params if AVERAGE in state.get(p, ())}


@contextmanager
def look_ahead(
    groups: _Groups,
    state: State,
    rules_of: _RulesOf,
    *,
    is_recorded: bool,
    was_skipped: Callable[[], bool],
) -> Generator[None]:
    """Hold the parameters of rules that store θ at θ + μ·v while their gradient is taken.

    The update goes on from there. What has no gradient, and everything if the step fails or is
    skipped, is put back from a copy.

    Args:
        groups: The optimizer's.
        state: The optimizer's.
        rules_of: A group's rules.
        is_recorded: Whether autograd records the step.
        was_skipped: Asked at the end of the block, whether the step was.

    Raises:
        InvalidUseError: If autograd is to record the step of such a rule.
    """
    moves: list[_Move] = []
    for group in groups:
        if get_convention(group["convention"]).stores != "iterate":
            continue  # its rules are read once, by the update
        rules = rules_of(group)
        if rules.needs_closure and is_recorded:
            raise InvalidUseError(
                f"differentiable must be False with convention {group['convention']!r} and "
                "nesterov=True, whose way to θ + μ·v is not recorded, got True; use "
                "convention='bengio', which stores that point"
            )
        if rules.needs_closure:
            moves += _moves(group["params"], state, rules.look_ahead_weight)
    copies = copies_of(param for param, _, _ in moves)
    try:
        for one in moves:
            move(*one)
        versions = {param: param._version for param in copies}  # noqa: SLF001
        yield
    except BaseException:
        put_back(copies)
        raise
    # What the closure wrote itself, into a parameter without a gradient, stays.
    skipped = was_skipped()
    still = {p: copy for p, copy in copies.items() if skipped or p.grad is None}
    put_back({p: copy for p, copy in still.items() if p._version == versions[p]})  # noqa: SLF001


def _moves(params: Iterable[Tensor], state: State, weight: float) -> list[_Move]:
    once = dict.fromkeys(params)  # torch only warns of one that a group has twice
    buffers = ((p, state.get(p, {}).get(BUFFER)) for p in once)
    return [_Move(p, b, weight) for p, b in buffers if b is not None]


def copies_of(params: Iterable[Tensor]) -> dict[Tensor, Tensor]:
    """Return what `put_back` puts back, bit for bit."""
    return {param: param.detach().clone() for param in params}


def put_back(copies: dict[Tensor, Tensor]) -> None:
    """Write parameters again as they were."""
    with torch.no_grad():
        for param, copy in copies.items():
            param.copy_(copy)
