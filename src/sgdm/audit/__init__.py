"""Find out what an optimizer really does: which rule it is, and which known defects it has."""

from sgdm.audit.adapters import from_function, from_keras, from_optax
from sgdm.audit.examine import check, examine
from sgdm.audit.report import Finding, Identity, Report

__all__ = [
    "Finding",
    "Identity",
    "Report",
    "check",
    "examine",
    "from_function",
    "from_keras",
    "from_optax",
]
