"""A rule by name: a convention, with ":nesterov" where its Nesterov form is asked for."""

from collections.abc import Iterable
from typing import NamedTuple

from sgdm.errors import InvalidValueError
from sgdm.frameworks import get_convention

__all__ = ["RuleName", "check_nu_is_read", "parse_rule", "parse_rules"]


class RuleName(NamedTuple):
    """What "torch:nesterov" says.

    Attributes:
        convention: The name as given, "torch".
        nesterov: Whether ":nesterov" stands behind it.
    """

    convention: str
    nesterov: bool

    def own_nu(self, nu: float | None) -> float | None:
        """Return ν where the rule has one, None where it has none."""
        return nu if get_convention(self.convention).look_ahead == "nu" else None


def parse_rule(name: str) -> RuleName:
    """Read a name.

    Raises:
        InvalidValueError: If something else than "nesterov" stands behind the colon.

    Example:
        >>> parse_rule("torch:nesterov")
        RuleName(convention='torch', nesterov=True)
    """
    convention, _, option = name.partition(":")
    if name != convention and option != "nesterov":
        raise InvalidValueError.of(
            "conventions", "a name, or a name with ':nesterov'", name, "as in torch:nesterov"
        )
    return RuleName(convention, option == "nesterov")


def parse_rules(text: str) -> tuple[str, ...]:
    """Split "torch,caffe:nesterov" into names.

    Raises:
        InvalidValueError: If none is left, or one stands twice.

    Example:
        >>> parse_rules("torch, caffe:nesterov")
        ('torch', 'caffe:nesterov')
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or len(set(names)) < len(names):
        raise InvalidValueError.of(
            "conventions",
            "one or several, different from each other, with commas between",
            text,
            "as in torch,caffe,torch:nesterov",
        )
    return names


def check_nu_is_read(rules: Iterable[str], nu: float | None) -> None:
    """Refuse a ν that none of the rules has a place for.

    Raises:
        InvalidValueError: If it is so, or a name is unknown.
    """
    if nu is not None and all(parse_rule(name).own_nu(nu) is None for name in rules):
        raise InvalidValueError.of(
            "nu", f"None for {', '.join(rules)}, which have no ν", nu, "add the convention qhm"
        )
