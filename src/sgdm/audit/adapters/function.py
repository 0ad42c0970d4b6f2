"""A function of parameters and gradients."""

import inspect
from collections.abc import Callable
from typing import Any

from sgdm.audit.adapters.arrays import Array
from sgdm.audit.adapters.interface import Factory, is_step, numbers, refuse_missing
from sgdm.errors import InvalidValueError

__all__ = ["from_function"]


def from_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a factory of optimizers for torch's parameters that step as a function does.

    What the function returns is rounded to the parameter's dtype.

    Args:
        function: `step(params, grads, **hyperparameters)`, which returns the new parameters, all
            of them lists of numpy arrays; or what makes a `step(params, grads)` of
            hyperparameters, which may keep a state.

    Example:
        >>> import torch
        >>> from sgdm.audit.adapters import from_function
        >>> def descend(params, grads, lr=0.5):
        ...     return [p - lr * g for p, g in zip(params, grads)]
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = from_function(descend)([p], lr=0.25)
        >>> p.grad = torch.ones(2)
        >>> optimizer.step()
        >>> p.tolist()
        [0.75, 0.75]
    """
    return Factory(function, _Function if is_step(function) else _Made)


class _Function:
    """A function that keeps nothing from step to step."""

    def __init__(
        self, make: Callable[..., Any], params: list[Array], settings: dict[str, Any]
    ) -> None:
        inspect.signature(make).bind(params, params, **settings)
        self.wrapped = make
        self._settings = settings
        self.changeable = numbers(make, settings)

    def change(self, name: str, value: Any) -> None:
        self._settings = {**self._settings, name: value}

    def stepped(self, params: list[Array], grads: list[Array]) -> list[Array]:
        places = [i for i, g in enumerate(grads) if g is not None]
        given = [params[i] for i in places]
        returned = self.wrapped(given, [grads[i] for i in places], **self._settings)
        _check_returned(returned, given)
        stepped = list(params)
        for i, p in zip(places, returned, strict=True):
            stepped[i] = p.copy()
        return stepped

    def buffers(self) -> list[Array]:
        return []


class _Made(_Function):
    """A function that was made for these parameters, and may know them by their places."""

    def __init__(
        self, make: Callable[..., Any], params: list[Array], settings: dict[str, Any]
    ) -> None:
        super().__init__(make(**settings), params, {})

    def stepped(self, params: list[Array], grads: list[Array]) -> list[Array]:
        refuse_missing(grads)
        return super().stepped(params, grads)


def _check_returned(returned: Any, params: list[Array]) -> None:
    shapes = [p.shape for p in params]
    if [getattr(p, "shape", None) for p in _listed(returned)] != shapes:
        raise InvalidValueError.of(
            "what the function returns",
            f"the new parameters, a list of arrays of shapes {shapes}",
            returned,
            "return them all",
        )


def _listed(returned: Any) -> list[Any]:
    return list(returned) if type(returned) in {list, tuple} else [None]
