"""SGD with momentum for PyTorch, complete: every convention, the same bits on every path.

Public names are loaded on first use (PEP 562): the conventions and their mathematics are there
without torch, and `import sgdm` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from sgdm.version import __version__

if TYPE_CHECKING:
    from sgdm import errors, schedule, stability
    from sgdm.compare import Comparison, compare_conventions
    from sgdm.convention import Convention
    from sgdm.convert.state import convert_, convert_state_dict
    from sgdm.frameworks import get_convention, list_conventions, register_convention
    from sgdm.grouping import ParamGroups, param_groups
    from sgdm.hyperparameters import Hyperparameters
    from sgdm.in_backward import step_in_backward
    from sgdm.optimizer import SGD
    from sgdm.porting import Ported, port_hyperparameters
    from sgdm.ranks import check_ranks
    from sgdm.recurrence import Coefficients, coefficients

__all__ = [
    "SGD",
    "Coefficients",
    "Comparison",
    "Convention",
    "Hyperparameters",
    "ParamGroups",
    "Ported",
    "__version__",
    "check_ranks",
    "coefficients",
    "compare_conventions",
    "convert_",
    "convert_state_dict",
    "errors",
    "get_convention",
    "list_conventions",
    "param_groups",
    "port_hyperparameters",
    "register_convention",
    "schedule",
    "stability",
    "step_in_backward",
]

_HOMES = {
    "SGD": "sgdm.optimizer",
    "Coefficients": "sgdm.recurrence",
    "Comparison": "sgdm.compare",
    "Convention": "sgdm.convention",
    "Hyperparameters": "sgdm.hyperparameters",
    "ParamGroups": "sgdm.grouping",
    "Ported": "sgdm.porting",
    "check_ranks": "sgdm.ranks",
    "coefficients": "sgdm.recurrence",
    "compare_conventions": "sgdm.compare",
    "convert_": "sgdm.convert.state",
    "convert_state_dict": "sgdm.convert.state",
    "get_convention": "sgdm.frameworks",
    "list_conventions": "sgdm.frameworks",
    "param_groups": "sgdm.grouping",
    "port_hyperparameters": "sgdm.porting",
    "register_convention": "sgdm.frameworks",
    "step_in_backward": "sgdm.in_backward",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use."""
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in ("errors", "schedule", "stability"):
        value = import_module(f"sgdm.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
