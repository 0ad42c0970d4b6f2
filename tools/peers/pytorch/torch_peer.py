"""What the drivers of optimizers for PyTorch share, the protocol included."""

import importlib
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, Refused, main

__all__ = ["Case", "Refused", "TorchPeer", "import_alone", "main", "versions"]


class TorchPeer:
    """An optimizer of one parameter that reads lr and momentum from its group at every step.

    Args:
        case: To step through.
        build: Makes the optimizer of a list of parameters.
        held_as: Under which key the buffer stands in the state of the parameter.
    """

    def __init__(
        self,
        case: Case,
        build: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
        held_as: str = "momentum_buffer",
    ) -> None:
        self.rounded: dict[str, str] = {}
        self._p = torch.nn.Parameter(torch.from_numpy(case.start()))
        self._optimizer = build([self._p])
        self._held_as = held_as

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        """Take one step."""
        self._optimizer.param_groups[0].update(self.changed(lr, momentum))
        self._p.grad = torch.from_numpy(gradient)
        self._optimizer.step()

    def changed(self, lr: float, momentum: float) -> dict[str, Any]:
        """Return the entries of the group that a step is to be taken with."""
        return {"lr": lr, "momentum": momentum}

    def parameter(self) -> Array:
        """Return the parameter."""
        return self._p.detach().numpy()

    def buffer(self) -> Array | None:
        """Return the buffer."""
        held = self._optimizer.state.get(self._p, {}).get(self._held_as)
        return None if held is None else held.detach().numpy()


def versions(distribution: str) -> dict[str, str]:
    """Return the versions of a distribution and of torch."""
    return {distribution: version(distribution), "torch": torch.__version__}


def import_alone(module: str, stand_ins: dict[str, dict[str, Any]] | None = None) -> Any:
    """Import a module without running the packages that it lies in.

    Args:
        module: The full name.
        stand_ins: By the names of modules that it imports, these packages included, the
            attributes that it needs of them.
    """
    stand_ins = dict(stand_ins or {})
    packages = module.split(".")[:-1]
    for depth in range(1, len(packages) + 1):
        package = ".".join(packages[:depth])
        found = find_spec(package)
        if found is None:
            raise ModuleNotFoundError(package)
        paths = found.submodule_search_locations
        sys.modules[package] = _module(package, {"__path__": paths, **stand_ins.pop(package, {})})
    for name, attributes in stand_ins.items():
        sys.modules[name] = _module(name, attributes)
    return importlib.import_module(module)


def _module(name: str, attributes: dict[str, Any]) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    return module
