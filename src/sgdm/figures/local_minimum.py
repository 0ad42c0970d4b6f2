"""The seed's figure 2: plain descent stays in a local minimum, momentum goes through."""

from dataclasses import dataclass

from sgdm.figures.descent import Descent, Path, descend
from sgdm.surfaces import get_surface

__all__ = ["LocalMinimum", "local_minimum"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalMinimum:
    """Two descents from one start, along x of the surface "local-minimum".

    Attributes:
        lr: ε of both.
        momentum: μ of the second.
        plain: The path of plain descent, as values of x.
        with_momentum: The path with momentum.
    """

    lr: float
    momentum: float
    plain: tuple[float, ...]
    with_momentum: tuple[float, ...]

    @staticmethod
    def value(x: float) -> float:
        """Return the loss at x."""
        return get_surface("local-minimum").value(x, 0.0)


def local_minimum(*, lr: float = 0.02, momentum: float = 0.9, steps: int = 120) -> LocalMinimum:
    """Descend with and without momentum.

    Args:
        lr: ε.
        momentum: μ of the descent that has one.
        steps: Of each.

    Raises:
        InvalidValueError: If one is out of range.
        DivergedError: If a descent leaves the finite numbers.
    """
    surface = get_surface("local-minimum")
    plain, with_momentum = (
        descend(Descent(surface, "torch", lr=lr, momentum=mu), steps) for mu in (0.0, momentum)
    )
    return LocalMinimum(
        lr=lr, momentum=momentum, plain=_xs(plain), with_momentum=_xs(with_momentum)
    )


def _xs(path: Path) -> tuple[float, ...]:
    return tuple(x for x, _ in path)
