"""Keras: an optimizer that is built on variables, on any of its backends."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from sgdm.audit.adapters.arrays import Array
from sgdm.audit.adapters.interface import Factory, numbers

__all__ = ["from_keras"]


def from_keras(optimizer: Callable[..., Any]) -> Callable[..., Any]:
    """Return a factory of optimizers for torch's parameters that step as Keras does.

    Keras keeps the learning rate in float32 unless `keras.config.set_floatx` says otherwise.

    Args:
        optimizer: The class, such as `keras.optimizers.SGD`, on any backend.

    Example:
        Where Keras is installed::

            import torch
            from keras.optimizers import SGD
            from sgdm.audit import from_keras
            p = torch.nn.Parameter(torch.ones(2))
            optimizer = from_keras(SGD)([p], lr=0.5, momentum=0.9)
            p.grad = torch.ones(2)
            optimizer.step()
            assert p.tolist() == [0.5, 0.5]
    """
    keras: Any = import_module("keras")
    if keras.backend.backend() == "jax":
        import_module("jax").config.update("jax_enable_x64", True)
    return Factory(optimizer, _Keras)


class _Keras:
    def __init__(
        self, make: Callable[..., Any], params: list[Array], settings: dict[str, Any]
    ) -> None:
        self._keras: Any = import_module("keras")
        self._variables = [
            self._keras.Variable(p, dtype=p.dtype.name, name=f"parameter{i}")
            for i, p in enumerate(params)
        ]
        self.wrapped = make(**settings)
        self.wrapped.build(self._variables)
        # What is 0 when the optimizer is built may have no variables for another value.
        self.changeable = {
            name: value
            for name, value in numbers(make, settings).items()
            if hasattr(self.wrapped, name) and (value or name == "learning_rate")
        }

    def change(self, name: str, value: Any) -> None:
        setattr(self.wrapped, name, value)

    def stepped(self, params: list[Array], grads: list[Array]) -> list[Array]:
        for variable, p in zip(self._variables, params, strict=True):
            variable.assign(p)
        # Keras leaves out gradients that are None, with a warning.
        given = [pair for pair in zip(grads, self._variables, strict=True) if pair[0] is not None]
        self.wrapped.apply(
            [self._keras.ops.convert_to_tensor(g, dtype=g.dtype.name) for g, _ in given],
            [variable for _, variable in given],
        )
        return [self._array(variable) for variable in self._variables]

    def buffers(self) -> list[Array]:
        found: list[Array] = [None] * len(self._variables)
        for i, variable in enumerate(self._variables):
            for held in self.wrapped.variables:
                if held.name.startswith(f"{variable.name}_") and found[i] is None:
                    found[i] = self._array(held)
        return found

    def _array(self, variable: Any) -> Array:
        return self._keras.ops.convert_to_numpy(variable.value).copy()
