"""optax: a transformation of gradients, with its state apart."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from sgdm.audit.adapters.arrays import Array
from sgdm.audit.adapters.interface import Factory, numbers, refuse_missing
from sgdm.audit.subject import Refused

__all__ = ["from_optax"]


def from_optax(transformation: Callable[..., Any]) -> Callable[..., Any]:
    """Return a factory of optimizers for torch's parameters that step as optax does.

    Switches JAX to 64 bits, for the parameters that have them. A new value of a hyperparameter
    makes the transformation anew, and keeps its state: unlike `optax.inject_hyperparams`, that
    leaves every number as the transformation alone makes it.

    Args:
        transformation: What makes it of hyperparameters, such as `optax.sgd`.

    Example:
        Where optax is installed::

            import torch
            from optax import sgd
            from sgdm.audit import from_optax
            p = torch.nn.Parameter(torch.ones(2))
            optimizer = from_optax(sgd)([p], lr=0.5, momentum=0.9)
            p.grad = torch.ones(2)
            optimizer.step()
            assert p.tolist() == [0.5, 0.5]
    """
    import_module("jax").config.update("jax_enable_x64", True)
    return Factory(transformation, _Optax)


class _Optax:
    def __init__(
        self, make: Callable[..., Any], params: list[Array], settings: dict[str, Any]
    ) -> None:
        self._jax: Any = import_module("jax")
        self._apply_updates: Any = import_module("optax").apply_updates
        self._make = make
        self._settings = settings
        self._initial = self._own(params)
        self.wrapped = make(**settings)
        self._kept = self.wrapped.init(self._initial)
        self.changeable = numbers(make, settings)

    def change(self, name: str, value: Any) -> None:
        injected = getattr(self._kept, "hyperparams", {})
        if name in injected:
            injected[name] = value
            return
        self._settings = {**self._settings, name: value}
        self.wrapped = self._make(**self._settings)
        structure = self._jax.tree_util.tree_structure
        if structure(self.wrapped.init(self._initial)) != structure(self._kept):
            raise Refused(f"the transformation keeps another state with {name}={value!r}")

    def stepped(self, params: list[Array], grads: list[Array]) -> list[Array]:
        refuse_missing(grads)
        own = self._own(params)
        updates, self._kept = self.wrapped.update(self._own(grads), self._kept, own)
        return [self._array(p) for p in self._apply_updates(own, updates)]

    def buffers(self) -> list[Array]:
        found: list[Array] = [None] * len(self._initial)
        for path, leaf in self._jax.tree_util.tree_leaves_with_path(self._kept):
            place = getattr(path[-1], "idx", len(found))  # in a list, as the parameters are
            if place < len(found) and leaf.shape == self._initial[place].shape:
                found[place] = self._array(leaf)
        return found

    def _own(self, arrays: list[Array]) -> list[Any]:
        return [self._jax.numpy.asarray(array) for array in arrays]

    def _array(self, own: Any) -> Array:
        return self._jax.device_get(own).copy()
