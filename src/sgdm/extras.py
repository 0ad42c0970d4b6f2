"""Optional dependencies: each one missing is named with the command that installs it."""

from importlib import import_module
from types import ModuleType

from sgdm.errors import MissingExtraError

__all__ = ["load_extra"]


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
        raise MissingExtraError(
            f"{error.name} must be installed for this; run: pip install 'sgdm[{extra}]'"
        ) from error
