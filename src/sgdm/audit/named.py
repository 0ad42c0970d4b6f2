"""The subject that is meant by "module:name", or by a factory itself."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from sgdm.audit.adapters import adapted
from sgdm.audit.subject import Subject
from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError, MissingExtraError

__all__ = ["name_of", "subject_of"]


def name_of(given: Any) -> tuple[str, str]:
    """Return where a script imports a thing from, "" where none can, and what it is called."""
    module, name = getattr(given, "__module__", ""), getattr(given, "__qualname__", "")
    if module == "__main__" or _attribute(sys.modules.get(module), name) is not given:
        module = ""
    return module, name


def subject_of(given: str | Callable[..., Any], settings: Mapping[str, Any]) -> Subject:
    """Return the subject that is meant by "module:name", or by what has that name.

    Raises:
        InvalidValueError: If nothing has the name.
        InvalidTypeError: If it cannot be called, or does not show what it is.
        InvalidUseError: If its module cannot be imported.
        MissingExtraError: If it is not installed.
    """
    if isinstance(given, str):
        module, _, name = given.partition(":")
        found = _found(module, name, given)
    else:
        found = given
        module, name = name_of(given)
    factory, wrapper = adapted(found)
    return Subject(factory, settings, module, name, wrapper)


def _found(module: str, name: str, given: str) -> Any:
    if not module or not name:
        raise InvalidValueError.of(
            "subject", "module:name, such as torch.optim:SGD", given, "write it so"
        )
    try:
        found = _attribute(import_module(module), name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{given}: {error}; install it") from error
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        text = f"{given} cannot be loaded: {type(error).__name__}: {error}; mend the module"
        raise InvalidUseError(text) from error
    if found is None:
        raise InvalidValueError.of("subject", f"in module {module}", given, "mend the name")
    if not callable(found):
        raise InvalidTypeError.of("subject", "a class or function", found, "name a factory")
    return found


def _attribute(found: Any, name: str) -> Any:
    """Return what a dotted name is; None where there is none."""
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
