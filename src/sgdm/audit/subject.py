"""What is examined: something that makes optimizers, and how it is asked to."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["USUAL", "Refused", "Subject", "group_of"]

# What a hyperparameter is where nothing says it: enough to see whether it is taken.
USUAL: dict[str, Any] = {
    "lr": 0.1,
    "momentum": 0.9,
    "dampening": 0.0,
    "weight_decay": 0.0,
    "nesterov": False,
    "maximize": False,
}


class Refused(Exception):  # noqa: N818 - it is what the subject did
    """The subject does not take these arguments; what it said."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A factory of optimizers, with the arguments it is examined with.

    Attributes:
        factory: Called with parameters and keyword arguments; what it returns has torch's
            interface: `step()`, `param_groups`.
        settings: The keyword arguments.
        module: Where a script imports the factory from; "" where nothing can.
        name: Its name there.
        wrapper: The function of `sgdm.audit` that gives what is imported torch's interface; ""
            for what has it.
    """

    factory: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    module: str = ""
    name: str = ""
    wrapper: str = ""

    def make(self, params: Iterable[Any], **changes: Any) -> Any:
        """Return a new optimizer.

        Args:
            params: Parameters or parameter groups.
            **changes: Before those of `settings`.

        Raises:
            Refused: If the factory raises anything.
        """
        try:
            return self.factory(params, **{**self.settings, **changes})
        except Exception as error:
            raise Refused(f"{type(error).__name__}: {error}") from error

    def makes_torch(self) -> bool:
        """Whether what it makes is a `torch.optim.Optimizer`."""
        return isinstance(self._sample(), torch.optim.Optimizer)

    def takes(self, name: str) -> bool:
        """Whether the factory has an argument of that name, or hands it on to what has."""
        if name in self.settings:
            return True
        try:
            parameters = inspect.signature(self.factory).parameters
        except (TypeError, ValueError):  # built-in, without a signature
            return False
        if name in parameters:
            return True
        hands_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        if not hands_on or name not in USUAL:
            return False
        try:
            return name in group_of(self._sample(**{name: USUAL[name]}))
        except Refused:
            return False

    def title(self) -> str:
        """Return it as a user would write it."""
        called = f"{self.module}:{self.name}" if self.module else self.name or "the factory"
        given = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"{called}({given})" if given else called

    def setup(self) -> list[str]:
        """Return the lines of a script that define `make`, which is `self.make` there."""
        given = "".join(f'"{name}": {_written(x)}, ' for name, x in self.settings.items())
        factory, _, _ = self.name.partition(".")
        lines = [f"from {self.module} import {factory}"]
        if not self.module:
            lines = [f"YOUR_FACTORY = ...  # {self.name}, which no script can import"]
        called = self.name if self.module else "YOUR_FACTORY"
        if self.wrapper:
            lines.append(f"from sgdm.audit import {self.wrapper}")
            called = f"{self.wrapper}({called})"
        call = f"{called}(params, **{{{given}**more}})"
        return [*lines, "def make(params, **more):", f"    return {call}"]

    def _sample(self, **changes: Any) -> Any:
        return self.make([torch.nn.Parameter(torch.ones(2, 2))], **changes)


def group_of(optimizer: Any) -> dict[str, Any]:
    """Return the first group; an empty one where there are no groups."""
    groups: list[dict[str, Any]] = getattr(optimizer, "param_groups", None) or [{}]
    return groups[0]


def _written(value: object) -> str:
    """Return a setting as a script has it."""
    if isinstance(value, torch.Tensor):
        return f"torch.tensor({value.tolist()!r}, dtype={value.dtype})"  # pyright: ignore[reportUnknownMemberType]
    return repr(value)
