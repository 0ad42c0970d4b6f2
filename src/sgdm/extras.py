"""Optional dependencies: each one missing is named with the command that installs it."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from sgdm.errors import MissingExtraError

__all__ = ["check_extra", "is_installed", "load_extra"]


def load_extra(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: What to import.
        extra: The extra of this package that brings it.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(error.name, extra) from error


def check_extra(module: str, *, extra: str) -> None:
    """Refuse to go on without an optional dependency, and do not import it yet.

    Args:
        module: What will be imported.
        extra: The extra of this package that brings it.

    Raises:
        MissingExtraError: If it is not installed.
    """
    if not is_installed(module):
        raise _missing(module, extra)


def is_installed(module: str) -> bool:
    """Whether a module can be imported, as far as can be told without doing so."""
    return find_spec(module) is not None


def _missing(module: str | None, extra: str) -> MissingExtraError:
    return MissingExtraError(
        f"{module} must be installed for this; run: pip install 'sgdm[{extra}]'"
    )
