"""The paths of any rules on any surfaces."""

from collections.abc import Sequence
from dataclasses import dataclass

from sgdm.errors import InvalidValueError
from sgdm.figures.descent import Descent, Path, descend, shaped
from sgdm.rule_name import check_nu_is_read
from sgdm.surfaces import Surface, get_surface

__all__ = ["Panel", "Trajectories", "trajectories"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One surface and the paths on it.

    Attributes:
        surface: Its name.
        parameters: What it is shaped by.
        lr: ε.
        paths: The stored parameter before each step and at the end, by rule.
    """

    surface: str
    parameters: dict[str, float]
    lr: float
    paths: dict[str, Path]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectories:
    """All surfaces, in the order given.

    Attributes:
        momentum: μ.
        steps: How many every path has.
        panels: One a surface.
    """

    momentum: float
    steps: int
    panels: tuple[Panel, ...]


def trajectories(
    *,
    conventions: Sequence[str] = ("torch", "caffe", "torch:nesterov", "cntk"),
    surface: Sequence[str] = ("quadratic", "rosenbrock", "beale"),
    lr: float | None = None,
    momentum: float = 0.9,
    steps: int = 400,
    condition_number: float | None = None,
    nu: float | None = None,
) -> Trajectories:
    """Descend every surface by every rule.

    Args:
        conventions: Rules, each with ":nesterov" for its Nesterov form.
        surface: The names of the surfaces.
        lr: ε; None for each surface's own.
        momentum: μ.
        steps: Of every path.
        condition_number: κ of the surfaces that have one; None for their own.
        nu: ν of the rules that have one.

    Raises:
        InvalidValueError: If a name is unknown or a number is out of range.
        DivergedError: If a path leaves the finite numbers.
    """
    check_nu_is_read(conventions, nu)
    surfaces = [get_surface(name) for name in surface]
    if condition_number is not None and not any(map(_has_condition_number, surfaces)):
        raise InvalidValueError.of(
            "condition_number",
            f"None on {', '.join(surface)}, which have none",
            condition_number,
            "add the surface quadratic",
        )
    panels: list[Panel] = []
    for each in surfaces:
        parameters = _shape(each, condition_number)
        rate = each.lr if lr is None else lr
        paths = {
            rule: descend(
                Descent(each, rule, lr=rate, momentum=momentum, nu=nu, parameters=parameters), steps
            )
            for rule in conventions
        }
        panels.append(Panel(surface=each.name, parameters=parameters, lr=rate, paths=paths))
    return Trajectories(momentum=momentum, steps=steps, panels=tuple(panels))


def _shape(surface: Surface, condition_number: float | None) -> dict[str, float]:
    if condition_number is None or not _has_condition_number(surface):
        return shaped(surface, {})
    return shaped(surface, {"condition_number": condition_number})


def _has_condition_number(surface: Surface) -> bool:
    return any(parameter.name == "condition_number" for parameter in surface.parameters)
