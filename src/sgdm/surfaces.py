"""Surfaces to descend: named functions of two numbers, with gradient, start and minimum.

Values and gradients are plain arithmetic: they take floats, arrays and symbols alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sgdm.errors import InvalidValueError

__all__ = ["Parameter", "Surface", "get_surface", "list_surfaces"]


class Parameter(NamedTuple):
    """A number that a surface is shaped by.

    Attributes:
        name: The keyword of `value` and `gradient`.
        symbol: What it is written as.
        title: What it is, in a few words.
        default: Its usual value.
        low: Its least.
        high: The largest that is of use.
    """

    name: str
    symbol: str
    title: str
    default: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Surface:
    """A function of (x, y) with what is needed to descend it and to show that.

    Attributes:
        name: In lower case.
        title: For people.
        value: f(x, y, **parameters).
        gradient: The pair (∂f/∂x, ∂f/∂y), of the same arguments.
        start: Where a descent begins.
        minimum: The global one, whatever the parameters are.
        bounds: (least x, greatest x, least y, greatest y) of the part worth showing.
        lr: A learning rate at which the rules with momentum up to 0.9 get to a minimum.
        parameters: What shapes it.
    """

    name: str
    title: str
    value: Callable[..., Any]
    gradient: Callable[..., tuple[Any, Any]]
    start: tuple[float, float]
    minimum: tuple[float, float]
    bounds: tuple[float, float, float, float]
    lr: float
    parameters: tuple[Parameter, ...] = ()


def get_surface(name: str) -> Surface:
    """Return the surface of that name.

    Raises:
        InvalidValueError: If there is none.

    Example:
        >>> from sgdm.surfaces import get_surface
        >>> get_surface("rosenbrock").gradient(1.0, 1.0)
        (-0.0, 0.0)
    """
    if name not in _BY_NAME:
        raise InvalidValueError.of("surface", f"one of {', '.join(_BY_NAME)}", name, "choose one")
    return _BY_NAME[name]


def list_surfaces() -> tuple[Surface, ...]:
    """Return every surface."""
    return tuple(_BY_NAME.values())


def _quadratic(x: Any, y: Any, condition_number: Any) -> Any:
    return (x**2 / condition_number + y**2) / 2


def _quadratic_gradient(x: Any, y: Any, condition_number: Any) -> tuple[Any, Any]:
    return x / condition_number, y


def _rosenbrock(x: Any, y: Any) -> Any:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _rosenbrock_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    return -2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)


def _beale_parts(x: Any, y: Any) -> tuple[Any, Any, Any]:
    return 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3


def _beale(x: Any, y: Any) -> Any:
    a, b, c = _beale_parts(x, y)
    return a**2 + b**2 + c**2


def _beale_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    a, b, c = _beale_parts(x, y)
    return (
        2 * a * (y - 1) + 2 * b * (y**2 - 1) + 2 * c * (y**3 - 1),
        2 * a * x + 4 * b * x * y + 6 * c * x * y**2,
    )


def _two_valleys(x: Any, y: Any) -> Any:
    return x**4 / 4 - x**3 / 3 - x**2 + y**2 / 2


def _two_valleys_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    return (x + 1) * x * (x - 2), y  # a local minimum at -1, a pass at 0, the minimum at 2


_SURFACES = (
    Surface(
        name="quadratic",
        title="Quadratic",
        value=_quadratic,
        gradient=_quadratic_gradient,
        start=(-9.0, 2.5),
        minimum=(0.0, 0.0),
        bounds=(-10.0, 4.0, -3.5, 3.5),
        lr=0.1,
        # Curvatures 1/κ and 1: the largest stable learning rate does not move with κ.
        parameters=(Parameter("condition_number", "κ", "condition number", 30.0, 1.0, 1000.0),),
    ),
    Surface(
        name="rosenbrock",
        title="Rosenbrock",
        value=_rosenbrock,
        gradient=_rosenbrock_gradient,
        start=(-1.2, 1.0),
        minimum=(1.0, 1.0),
        bounds=(-1.7, 1.7, -0.5, 2.0),
        lr=0.001,
    ),
    Surface(
        name="beale",
        title="Beale",
        value=_beale,
        gradient=_beale_gradient,
        start=(1.0, 1.0),
        minimum=(3.0, 0.5),
        bounds=(0.0, 4.5, -1.0, 1.5),
        lr=0.01,
    ),
    Surface(
        name="local-minimum",
        title="Two valleys",
        value=_two_valleys,
        gradient=_two_valleys_gradient,
        start=(-2.0, 0.0),
        minimum=(2.0, 0.0),
        bounds=(-2.4, 3.2, -2.0, 2.0),
        lr=0.02,
    ),
)
_BY_NAME = {surface.name: surface for surface in _SURFACES}
