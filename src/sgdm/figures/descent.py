"""A descent of a surface by `sgdm.SGD`, in float64: the path that most figures show."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sgdm.errors import DivergedError, InvalidValueError
from sgdm.optimizer import SGD
from sgdm.rule_name import parse_rule
from sgdm.surfaces import Surface

__all__ = ["Descent", "Path", "Point", "check_moves", "check_steps", "descend", "shaped"]

Point = tuple[float, float]
Path = tuple[Point, ...]


class Descent:
    """A parameter on a surface and the optimizer that moves it, step by step.

    Args:
        surface: What to descend.
        rule: A convention, with ":nesterov" for its Nesterov form.
        lr: ε.
        momentum: μ.
        nu: ν, for a rule that has it.
        parameters: Those of the surface that are not its defaults.
        start: Where to begin, if not at the surface's start.

    Attributes:
        param: The stored parameter.
        optimizer: The `sgdm.SGD` that has it.
        seen_at: Where the last gradient was taken, once there is one.

    Raises:
        InvalidValueError: If a hyperparameter or a name is not one.
    """

    def __init__(
        self,
        surface: Surface,
        rule: str,
        *,
        lr: float,
        momentum: float,
        nu: float | None = None,
        parameters: Mapping[str, float] | None = None,
        start: Point | None = None,
    ) -> None:
        name = parse_rule(rule)
        self._rule = rule
        self._surface = surface
        self._parameters = shaped(surface, parameters or {})
        self.param = torch.nn.Parameter(torch.tensor(start or surface.start, dtype=torch.float64))
        self.optimizer = SGD(
            [self.param],
            lr=lr,
            momentum=momentum,
            nesterov=name.nesterov,
            convention=name.convention,
            nu=name.own_nu(nu),
        )
        self.seen_at: Point | None = None

    @property
    def point(self) -> Point:
        """The stored parameter: θ, or Θ for a rule that keeps the look-ahead point."""
        return _as_point(self.param)

    @property
    def iterate(self) -> Point:
        """θ, whatever is stored."""
        with self.optimizer.at_iterate():
            return self.point

    @property
    def buffer(self) -> Point:
        """The rule's buffer; zeros before the first step."""
        buffer = self.optimizer.state[self.param].get("momentum_buffer")
        return (0.0, 0.0) if buffer is None else _as_point(buffer)

    @property
    def gradient(self) -> Point:
        """The gradient of the last step."""
        assert self.param.grad is not None
        return _as_point(self.param.grad)

    def step(self, gradient: Point | None = None) -> None:
        """Make one step, with the surface's gradient or with a given one.

        Raises:
            DivergedError: If the parameter is no longer finite.
        """

        def closure() -> float:
            self.seen_at = self.point
            taken = gradient or self._surface.gradient(*self.point, **self._parameters)
            self.param.grad = torch.tensor(taken, dtype=torch.float64)
            return 0.0

        try:
            self.optimizer.step(closure)
            finite = all(map(math.isfinite, self.point))
        except OverflowError:  # a power of a Python float
            finite = False
        if not finite:
            raise DivergedError(
                f"{self._rule} on {self._surface.name!r} left the finite numbers; make lr smaller, "
                "or make fewer steps"
            )


def descend(descent: Descent, steps: int) -> Path:
    """Return the start and the stored parameter after each of so many steps.

    Raises:
        DivergedError: If it is no longer finite.
    """
    check_steps(steps)
    path = [descent.point]
    for _ in range(steps):
        descent.step()
        path.append(descent.point)
    return tuple(path)


def shaped(surface: Surface, given: Mapping[str, float]) -> dict[str, float]:
    """Return the surface's parameters, those given in place of its defaults.

    Raises:
        InvalidValueError: If one is not in its range.
    """
    values = {parameter.name: parameter.default for parameter in surface.parameters} | dict(given)
    for parameter in surface.parameters:
        if not parameter.low <= values[parameter.name] < math.inf:
            raise InvalidValueError.of(
                parameter.name,
                f"a finite number >= {parameter.low:g}",
                values[parameter.name],
                f"{parameter.default:g} is usual",
            )
    return values


def check_steps(steps: int) -> None:
    """Refuse a run without a step.

    Raises:
        InvalidValueError: If it is one.
    """
    if steps < 1:
        raise InvalidValueError.of("steps", ">= 1", steps, "make at least one")


def check_moves(*, lr: float, momentum: float) -> None:
    """Refuse numbers with which a step has no gradient part or no momentum part to show.

    Raises:
        InvalidValueError: If there is none.
    """
    for name, value in (("lr", lr), ("momentum", momentum)):
        if not 0 < value < math.inf:
            raise InvalidValueError.of(
                name, "a finite number > 0", value, "the figure shows what it does"
            )


def _as_point(tensor: Tensor) -> Point:
    x, y = map(float, tensor.detach())
    return x, y
