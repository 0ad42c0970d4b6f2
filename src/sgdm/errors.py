"""The family of exceptions: each names the argument, the requirement, the value, and what to do.

Every class is also the built-in that torch raises in its place, so code that catches
`ValueError`, `TypeError` or `RuntimeError` around `torch.optim.SGD` goes on working.
"""

from typing import Self

__all__ = [
    "DivergedError",
    "FileError",
    "InterruptedRunError",
    "InvalidTypeError",
    "InvalidUseError",
    "InvalidValueError",
    "LostProcessError",
    "MissingExtraError",
    "SgdmError",
    "WrongResultError",
]


class SgdmError(Exception):
    """Base of every error that sgdm raises on purpose.

    Attributes:
        name: The argument at fault, or None where no single argument is.
        requirement: What it must be.
        value: What was received.
    """

    name: str | None = None
    requirement: str | None = None
    value: object = None

    @classmethod
    def of(
        cls, name: str, requirement: str, value: object, remedy: str, *, torch_text: str = ""
    ) -> Self:
        """Build the message "[torch's text: ]name must be requirement, got value; remedy"."""
        prefix = f"{torch_text}: " if torch_text else ""
        error = cls(f"{prefix}{name} must be {requirement}, got {_shown(value)}; {remedy}")
        error.name, error.requirement, error.value = name, requirement, value
        return error


class InvalidValueError(SgdmError, ValueError):
    """A value outside the range that its argument allows, or one that contradicts another."""


class InvalidTypeError(SgdmError, TypeError):
    """A value of a type that its argument does not take."""


class InvalidUseError(SgdmError, RuntimeError):
    """A call that is not possible in the state the object is in."""


class FileError(SgdmError, RuntimeError):
    """A file that cannot be read as what it should be, or cannot be written."""


class DivergedError(SgdmError, RuntimeError):
    """A training run whose loss is no longer finite."""


class InterruptedRunError(SgdmError, RuntimeError):
    """A training run that was asked to stop, and has saved what it needs to go on."""


class LostProcessError(SgdmError, RuntimeError):
    """One of several processes that train together is gone, and the others cannot go on."""


class WrongResultError(SgdmError, RuntimeError):
    """A benchmark whose contestants do not agree, or end at numbers that are not finite."""


class MissingExtraError(SgdmError, RuntimeError):
    """An optional dependency that is not installed; the text is the command that installs it."""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
