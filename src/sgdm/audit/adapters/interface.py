"""torch's interface over what a library does with arrays."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch

from sgdm.audit.adapters.arrays import Array, array_of, tensor_of
from sgdm.audit.subject import Refused
from sgdm.errors import InvalidTypeError

__all__ = ["Factory", "Rule", "is_step", "numbers", "refuse_missing"]

_TORCH_NAMES = {"learning_rate": "lr"}
_GRADIENTS = ("g", "grad", "grads", "gradient", "gradients")
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Rule(Protocol):
    """What a library does with the arrays of one optimizer.

    Attributes:
        wrapped: The library's own object.
        changeable: The hyperparameters that can be changed between two steps, under the library's
            names, with the values at the start.
    """

    wrapped: Any
    changeable: dict[str, Any]

    def change(self, name: str, value: Any) -> None:
        """Take the steps from here on with another value."""
        ...

    def stepped(self, params: list[Array], grads: list[Array]) -> list[Array]:
        """Return the parameters after a step; the gradient of some may be None."""
        ...

    def buffers(self) -> list[Array]:
        """Return what is kept of the shape of each parameter, or None."""
        ...


class _Adapted:
    """A rule on torch's parameters.

    Attributes:
        param_groups: One group. A hyperparameter that can be changed is in it, and the next step
            uses what is there.
    """

    def __init__(self, params: list[torch.Tensor], rule: Rule) -> None:
        self._params = params
        self._rule = rule
        values = {_torch_name(name): value for name, value in rule.changeable.items()}
        self.param_groups: list[dict[str, Any]] = [{"params": params, **values}]

    @property
    def wrapped(self) -> Any:
        """The library's own object."""
        return self._rule.wrapped

    @property
    def state(self) -> dict[torch.Tensor, dict[str, torch.Tensor]]:
        """A copy of what the library keeps of the shape of each parameter."""
        return {
            p: {"momentum_buffer": tensor_of(buffer)}
            for p, buffer in zip(self._params, self._rule.buffers(), strict=False)
            if buffer is not None
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step, as every optimizer of torch's does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._change()
        grads = [None if p.grad is None else array_of(p.grad) for p in self._params]
        if any(g is not None for g in grads):
            stepped = self._rule.stepped([array_of(p) for p in self._params], grads)
            for p, array in zip(self._params, stepped, strict=True):
                p.copy_(tensor_of(array))
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or set them to zero."""
        for p in self._params:
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad = torch.zeros_like(p.grad)

    def _change(self) -> None:
        for name, value in self._rule.changeable.items():
            wanted = self.param_groups[0][_torch_name(name)]
            if wanted != value:
                self._rule.change(name, wanted)
                self._rule.changeable[name] = wanted


class Factory:
    """Makes optimizers as a class of torch's does: of parameters, and keyword arguments."""

    def __init__(
        self,
        make: Callable[..., Any],
        rule: Callable[[Callable[..., Any], list[Array], dict[str, Any]], Rule],
    ) -> None:
        self._make = make
        self._rule = rule
        self._own_names = {_torch_name(a.name): a.name for a in _hyperparameters(make)}
        self.__signature__ = inspect.Signature(
            [
                inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD),
                *(
                    a.replace(name=_torch_name(a.name), kind=inspect.Parameter.KEYWORD_ONLY)
                    for a in _hyperparameters(make)
                ),
            ]
        )

    def __call__(self, params: Iterable[torch.Tensor], **settings: Any) -> _Adapted:
        """Return an optimizer.

        Args:
            params: Parameters, without groups.
            **settings: The library's own arguments; its learning rate is `lr`.

        Raises:
            InvalidTypeError: If there are groups.
        """
        kept = list(params)
        if any(isinstance(p, Mapping) for p in kept):
            raise InvalidTypeError.of(
                "params", "tensors", kept, "make an optimizer for every parameter group"
            )
        own = {self._own_names.get(name, name): value for name, value in settings.items()}
        return _Adapted(kept, self._rule(self._make, [array_of(p) for p in kept], own))


def is_step(function: Callable[..., Any]) -> bool:
    """Whether it takes gradients after something else, as their name says."""
    names = list(inspect.signature(function).parameters)
    return len(names) >= 2 and names[1] in _GRADIENTS


def numbers(make: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters that are numbers, given or by default."""
    defaults = {a.name: a.default for a in _hyperparameters(make)}
    return {
        name: value
        for name, value in {**defaults, **settings}.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def refuse_missing(grads: list[Array]) -> None:
    """Leave a step that not all parameters take part in.

    Raises:
        Refused: If some have no gradient.
    """
    if any(g is None for g in grads):
        raise Refused("it steps all parameters at once, and some have no gradient")


def _hyperparameters(make: Callable[..., Any]) -> list[inspect.Parameter]:
    arguments = list(inspect.signature(make).parameters.values())
    beyond = 2 if is_step(make) else 0
    return [a for a in arguments[beyond:] if a.kind not in _VARIADIC]


def _torch_name(name: str) -> str:
    return _TORCH_NAMES.get(name, name)
