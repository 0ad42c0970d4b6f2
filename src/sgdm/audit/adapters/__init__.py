"""Optimizers of other libraries with torch's interface, so that the same cases run on them."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

from sgdm.audit.adapters.function import from_function
from sgdm.audit.adapters.interface import is_step
from sgdm.audit.adapters.keras import from_keras
from sgdm.audit.adapters.optax import from_optax
from sgdm.errors import InvalidTypeError

__all__ = ["adapted", "from_function", "from_keras", "from_optax"]

_WRAPPERS = {w.__name__: w for w in (from_function, from_keras, from_optax)}
_PARAMETERS = ("params", "parameters")
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def adapted(found: Any) -> tuple[Callable[..., Any], str]:
    """Return a factory with torch's interface, and the name of the function here that gave it one.

    Args:
        found: A class or function; what has torch's interface is returned as it is, with "".

    Raises:
        InvalidTypeError: If it does not show what it is.
    """
    wrapper = _wrapper(found)
    if not wrapper:
        return found, ""
    return _WRAPPERS[wrapper](found), wrapper


def _wrapper(found: Any) -> str:
    if isinstance(found, type):
        return "from_keras" if issubclass(found, _keras_optimizers()) else ""
    try:
        arguments = list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):  # built-in, without a signature
        return ""
    if is_step(found):
        return "from_function"
    if arguments and (arguments[0].name in _PARAMETERS or arguments[0].kind in _VARIADIC):
        return ""
    return _wrapper_of_made(found, arguments)


def _wrapper_of_made(found: Any, arguments: list[inspect.Parameter]) -> str:
    """Tell by what it makes, with every argument that has no default at 0.1."""
    required = {
        argument.name: 0.1
        for argument in arguments
        if argument.default is argument.empty and argument.kind not in _VARIADIC
    }
    try:
        made = found(**required)
    except Exception as error:
        raise _ambiguous(found) from error
    if isinstance(made, _keras_optimizers()):
        return "from_keras"
    if hasattr(made, "init") and hasattr(made, "update"):
        return "from_optax"
    if callable(made):
        return "from_function"
    raise _ambiguous(found)


def _keras_optimizers() -> tuple[type, ...]:
    """Return their base class; none where nothing has imported Keras yet."""
    keras: Any = sys.modules.get("keras")
    return () if keras is None else (keras.optimizers.Optimizer,)


def _ambiguous(found: Any) -> InvalidTypeError:
    return InvalidTypeError.of(
        "subject",
        "a function of params and grads, or what makes torch optimizers of params, optax "
        "transformations or Keras optimizers",
        found,
        "in a module of your own, name what from_function, from_optax or from_keras of sgdm.audit "
        "returns for it, or a factory whose first argument is called params",
    )
