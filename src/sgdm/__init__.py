"""SGD with momentum for PyTorch, complete: every convention, the same bits on every path.

Public names are loaded on first use (PEP 562): the conventions and their mathematics are there
without torch, and `import sgdm` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from sgdm.version import __version__

if TYPE_CHECKING:
    from sgdm import errors, schedule
    from sgdm.convention import Convention
    from sgdm.frameworks import get_convention, list_conventions, register_convention
    from sgdm.hyperparameters import Hyperparameters
    from sgdm.optimizer import SGD
    from sgdm.recurrence import Coefficients, coefficients

__all__ = [
    "SGD",
    "Coefficients",
    "Convention",
    "Hyperparameters",
    "__version__",
    "coefficients",
    "errors",
    "get_convention",
    "list_conventions",
    "register_convention",
    "schedule",
]

_HOMES = {
    "SGD": "sgdm.optimizer",
    "Coefficients": "sgdm.recurrence",
    "Convention": "sgdm.convention",
    "Hyperparameters": "sgdm.hyperparameters",
    "coefficients": "sgdm.recurrence",
    "get_convention": "sgdm.frameworks",
    "list_conventions": "sgdm.frameworks",
    "register_convention": "sgdm.frameworks",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use."""
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in ("errors", "schedule"):
        value = import_module(f"sgdm.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
