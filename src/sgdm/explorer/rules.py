"""What the page knows of the conventions: their steps, as JavaScript, and their equations."""

from dataclasses import dataclass, field
from typing import Any

import sympy

from sgdm.convention import Convention, with_momentum_correction
from sgdm.equations import step_equations
from sgdm.explorer.javascript import arrow, body, symbols
from sgdm.system import Run, StepMap

__all__ = ["ARGUMENTS", "NU", "RuleTable", "behaviour", "rule_table", "state_map"]

_algebra: Any = sympy  # which is typed in part

NU = 0.7  # for the rules that have a ν, which has no slider

# Of the function of a step. `next_lr` is that of the step after it, for what looks ahead.
ARGUMENTS = ("lr", "next_lr", "momentum", "weight_decay", "lr0", "nu")


@dataclass(frozen=True, slots=True)
class RuleTable:
    """The conventions that run. What several of them have in common is there once.

    Attributes:
        rows: One a convention, for JSON. Its `variants` are those of "", "nesterov", "corrected"
            and "corrected nesterov" that it has: the places of its later and its first step in
            `steps`, and of its equations without and with λ in `equations`.
        steps: JavaScript functions of `ARGUMENTS` that return a `StepMap` as an array.
        equations: The lines of a step.
    """

    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    steps: list[str] = field(default_factory=list[str])
    equations: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])


def rule_table(conventions: tuple[Convention, ...]) -> RuleTable:
    """Return what the page knows of the conventions."""
    table = RuleTable()
    for row in conventions:
        if row.runs:
            table.rows.append(
                {
                    "name": row.name,
                    "title": row.title,
                    "nesterovNeedsMomentum": row.nesterov_check,
                    "hasNu": row.look_ahead == "nu",
                    "variants": {
                        name: _places(table, rule, nesterov=nesterov)
                        for name, rule, nesterov in _variants(row)
                    },
                }
            )
    return table


def _variants(row: Convention) -> list[tuple[str, Convention, bool]]:
    """Return the rules that the switches of the page make of a convention."""
    rules = [("", row)]
    if row.correctable:
        rules.append(("corrected", with_momentum_correction(row)))
    switches = (False, True) if row.nesterov == "optional" else (False,)
    return [
        (f"{name} nesterov".strip() if nesterov else name, rule, nesterov)
        for name, rule in rules
        for nesterov in switches
    ]


def _places(table: RuleTable, rule: Convention, *, nesterov: bool) -> list[int]:
    steps = (_step(rule, nesterov=nesterov, first=first) for first in (False, True))
    lines = (
        step_equations(rule, nesterov=nesterov, dampening=False, weight_decay=decays)
        for decays in (False, True)
    )
    return [
        *(_place(table.steps, step) for step in steps),
        *(_place(table.equations, line) for line in lines),
    ]


def _place(shared: list[Any], item: object) -> int:
    if item not in shared:
        shared.append(item)
    return shared.index(item)


def _step(rule: Convention, *, nesterov: bool, first: bool) -> str:
    """Return the function of a step. What a rule does otherwise at μ = 0 is a branch of it."""
    arguments = symbols(*ARGUMENTS)
    momentum = arguments[ARGUMENTS.index("momentum")]
    moving = _step_map(rule, momentum, nesterov=nesterov, first=first)
    still = _step_map(rule, _algebra.Integer(0), nesterov=nesterov, first=first)
    text = body(*moving)
    at_zero = (_algebra.sympify(entry).subs(momentum, 0) for entry in moving)
    if any(_algebra.expand(a - b) != 0 for a, b in zip(at_zero, still, strict=True)):
        text = f"if (momentum === 0) {{ {body(*still)} }} {text}"
    return arrow(arguments, text)


def _step_map(rule: Convention, momentum: Any, *, nesterov: bool, first: bool) -> StepMap:
    lr, next_lr, _, weight_decay, lr0, nu = symbols(*ARGUMENTS)
    run = Run(
        convention=rule,
        lr=lambda t: next_lr if t else lr,
        momentum=lambda _: momentum,
        weight_decay=weight_decay,
        nesterov=nesterov,
        nu=nu if rule.look_ahead == "nu" else None,
        lr0=lr0,
    )
    return run.step(0, first=first)


def state_map() -> str:
    """Return the function of two steps with the map of the first's state to the second's."""
    own, other = (StepMap(*symbols(*(f"{n}{k}" for n in StepMap._fields))) for k in ("", "_to"))
    return arrow([_listed(own), _listed(other)], body(*own.buffer_in(other)))


def behaviour() -> str:
    """Return the function of a step with all that a parameter sees of it when it is constant."""
    step = StepMap(*symbols(*StepMap._fields))
    unseen = step._replace(a12=0)
    text = f"if (a12 === 0) {{ {body(*unseen.behaviour())} }} {body(*step.behaviour())}"
    return arrow([_listed(step)], text)


def _listed(step: StepMap) -> str:
    return f"[{', '.join(map(str, step))}]"
