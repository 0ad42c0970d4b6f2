"""What is examined: something that makes optimizers, and how it is asked to."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Refused", "Subject"]


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

    def takes(self, name: str) -> bool:
        """Whether the factory has an argument of that name, or was given one."""
        if name in self.settings:
            return True
        try:
            parameters = inspect.signature(self.factory).parameters
        except (TypeError, ValueError):  # built-in, without a signature
            return False
        return name in parameters

    def title(self) -> str:
        """Return it as a user would write it."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"{self._called()}({given})" if given else self._called()

    def setup(self) -> list[str]:
        """Return the lines of a script that define `make`, which is `self.make` there."""
        given = "".join(f'"{name}": {value!r}, ' for name, value in self.settings.items())
        head, _, tail = self.name.partition(".")
        factory = f"{head}.{tail}" if tail else head
        lines = [f"from {self.module} import {head}"] if self.module else []
        if self.wrapper:
            lines.append(f"from sgdm.audit import {self.wrapper}")
            factory = f"{self.wrapper}({factory})"
        call = f"{factory or 'YOUR_FACTORY'}(params, **{{{given}**more}})"
        return [*lines, "def make(params, **more):", f"    return {call}"]

    def _called(self) -> str:
        return f"{self.module}:{self.name}" if self.module else self.name or "the factory"
