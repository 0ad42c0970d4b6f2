"""Which engine runs a plan: the named one, or the fastest that serves its tensors."""

from typing import Protocol

from sgdm.engines import eager
from sgdm.engines.plan import StepPlan
from sgdm.errors import InvalidValueError

__all__ = ["Engine", "check_engine", "choose_engine"]


class Engine(Protocol):
    """What an engine module offers."""

    def run(self, plan: StepPlan) -> None:
        """Update every parameter and buffer of the plan."""
        ...


_ENGINES: dict[str, Engine] = {"auto": eager, "eager": eager}


def check_engine(name: str) -> None:
    """Refuse the name of an engine that does not exist.

    Raises:
        InvalidValueError: If it is not the name of an engine.
    """
    if name not in _ENGINES:
        raise InvalidValueError.of(
            "engine",
            "one of " + ", ".join(map(repr, _ENGINES)),
            name,
            "'auto' takes the fastest that serves the tensors",
        )


def choose_engine(name: str) -> Engine:
    """Return the engine to run."""
    check_engine(name)
    return _ENGINES[name]
