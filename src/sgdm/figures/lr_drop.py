"""How two conventions part when the learning rate drops from ε_1 to ε_2, beside what algebra says.

With v the velocity of the rule that has ε outside of its buffer, at the drop, the same gradients
make the velocities differ by μⁿ·(ε_1-ε_2)·|v| after n steps, and the parameters by
μ·(1-μⁿ)/(1-μ)·(ε_1-ε_2)·|v|.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sgdm.compare import compare_conventions
from sgdm.errors import InvalidValueError
from sgdm.figures.descent import Descent, Point, check_moves, check_steps
from sgdm.frameworks import get_convention
from sgdm.hyperparameters import Hyperparameters
from sgdm.recurrence import coefficients
from sgdm.rule_name import parse_rule
from sgdm.surfaces import get_surface

__all__ = ["LrDrop", "lr_drop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LrDrop:
    """Two runs and their gaps; entry t of a sequence is after step t, counted from 1.

    Attributes:
        outside: The convention with ε outside of its buffer.
        inside: The one with ε inside.
        lr: ε_1, until the drop.
        lr_after: ε_2.
        momentum: μ.
        drop: After how many steps ε drops.
        speed_outside: How far the buffer of the first moved its parameter: |ε·v|.
        speed_inside: The same of the second.
        speed_gap: The length of the difference of these moves, given the same gradients.
        speed_gap_predicted: What algebra says of it.
        gap: The distance of the parameters, given the same gradients.
        gap_predicted: What algebra says of it.
        gap_limit: What that tends to.
        gap_answered: The distance when each has the gradients of its own point.
    """

    outside: str
    inside: str
    lr: float
    lr_after: float
    momentum: float
    drop: int
    speed_outside: tuple[float, ...]
    speed_inside: tuple[float, ...]
    speed_gap: tuple[float, ...]
    speed_gap_predicted: tuple[float, ...]
    gap: tuple[float, ...]
    gap_predicted: tuple[float, ...]
    gap_limit: float
    gap_answered: tuple[float, ...]


def lr_drop(
    *,
    conventions: Sequence[str] = ("torch", "caffe"),
    lr: float = 0.5,
    momentum: float = 0.9,
    lr_drop_factor: float = 0.1,
    drop: int = 10,
    steps: int = 60,
) -> LrDrop:
    """Descend a quadratic by both, with a drop.

    Args:
        conventions: Two that are the same while lr is constant, without Nesterov's method.
        lr: ε_1.
        momentum: μ > 0 and < 1.
        lr_drop_factor: ε_2/ε_1 > 0, not 1.
        drop: After how many steps ε drops.
        steps: How many in all.

    Raises:
        InvalidValueError: If the conventions are no such pair, or a number is out of range.
        DivergedError: If a run leaves the finite numbers.
    """
    check_steps(steps)
    check_moves(lr=lr, momentum=momentum)
    _check(momentum, lr_drop_factor, drop, steps)
    outside, inside = _pair(conventions)
    lr_after = lr_drop_factor * lr
    runs = [_Run(rule, lr, momentum) for rule in (outside, inside, inside)]
    before = [_step(*runs) for _ in range(drop)]
    lost = abs(lr - lr_after) * math.hypot(*runs[0].buffer)
    for run in runs:
        run.change_lr(lr_after)
    measured = zip(*before, *(_step(*runs) for _ in range(steps - drop)), strict=True)
    # How much of v is left after n steps with ε_2: μⁿ.
    left = [momentum**n for n in range(1, steps - drop + 1)]
    nothing = (0.0,) * drop
    speed_outside, speed_inside, speed_gap, gap, gap_answered = measured
    return LrDrop(
        outside=outside,
        inside=inside,
        lr=lr,
        lr_after=lr_after,
        momentum=momentum,
        drop=drop,
        speed_outside=speed_outside,
        speed_inside=speed_inside,
        speed_gap=speed_gap,
        speed_gap_predicted=nothing + tuple(power * lost for power in left),
        gap=gap,
        gap_predicted=nothing
        + tuple(momentum * (1 - power) / (1 - momentum) * lost for power in left),
        gap_limit=momentum / (1 - momentum) * lost,
        gap_answered=gap_answered,
    )


class _Run(Descent):
    """A descent that knows what its buffer does to the parameter."""

    def __init__(self, rule: str, lr: float, momentum: float) -> None:
        super().__init__(get_surface("quadratic"), rule, lr=lr, momentum=momentum)
        self._row, self._momentum = get_convention(rule), momentum
        self.change_lr(lr)

    def change_lr(self, lr: float) -> None:
        """Go on with another ε."""
        self.optimizer.param_groups[0]["lr"] = lr
        h = Hyperparameters(lr=lr, momentum=self._momentum)
        c = coefficients(self._row, h, first=False)
        self._weight = c.step * c.buffer_weight

    @property
    def move(self) -> Point:
        """What the buffer added to the parameter in the last step."""
        x, y = self.buffer
        return self._weight * x, self._weight * y


def _step(leader: _Run, follower: _Run, shadow: _Run) -> tuple[float, ...]:
    """Make a step, the shadow's with the leader's gradient; return what of it is measured."""
    leader.step()
    follower.step()
    shadow.step(leader.gradient)
    return (
        math.hypot(*leader.move),
        math.hypot(*follower.move),
        math.dist(leader.move, shadow.move),
        math.dist(leader.point, shadow.point),
        math.dist(leader.point, follower.point),
    )


def _pair(conventions: Sequence[str]) -> tuple[str, str]:
    """Return the two, the one with ε outside first."""
    remedy = "as in torch,caffe or optax,keras"
    requirement = "two that are the same while lr is constant, without Nesterov's method"
    given = ",".join(conventions)
    if len(conventions) != 2:
        raise InvalidValueError.of("conventions", requirement, given, remedy)
    names = [parse_rule(name) for name in conventions]
    rows = [get_convention(name.convention) for name in names]
    ahead = any(
        name.nesterov or row.nesterov == "always" for name, row in zip(names, rows, strict=True)
    )
    if ahead or compare_conventions(*rows).identical != "while lr is constant":
        raise InvalidValueError.of("conventions", requirement, given, remedy)
    one, other = conventions
    return (other, one) if rows[0].lr == "inside" else (one, other)


def _check(momentum: float, lr_drop_factor: float, drop: int, steps: int) -> None:
    if momentum >= 1:
        raise InvalidValueError.of("momentum", "< 1", momentum, "the gap would grow for ever")
    if not 0 < lr_drop_factor < math.inf or lr_drop_factor == 1:
        raise InvalidValueError.of(
            "lr_drop_factor", "a finite number > 0, not 1", lr_drop_factor, "0.1 is usual"
        )
    if not 0 < drop < steps:
        raise InvalidValueError.of(
            "drop", f"> 0 and < {steps}, the steps", drop, "drop within them"
        )
