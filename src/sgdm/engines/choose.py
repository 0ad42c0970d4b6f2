"""Which engine runs a plan: the named one, or the fastest that serves its tensors."""

from functools import partial
from typing import Protocol

import torch

from sgdm.engines import devices, eager, native, triton
from sgdm.engines.check import check_plan
from sgdm.engines.plan import PreparedStep, StepPlan
from sgdm.engines.triton import interpreted
from sgdm.errors import InvalidUseError, InvalidValueError
from sgdm.extras import check_extra

__all__ = ["Engine", "check_engine", "prepare"]


class Engine(Protocol):
    """What an engine module offers."""

    def prepare(self, plan: StepPlan) -> PreparedStep | str:
        """Return the plan ready to be run, or the reason why this engine cannot run it."""
        ...


# On processors without AVX2 torch's own operations do not use fused multiply-adds, and the native
# engine does: there only torch's operations have torch's bits.
_FMA_IN_TORCH = torch.backends.cpu.get_cpu_capability() != "DEFAULT"
_ENGINES: dict[str, tuple[Engine, ...]] = {
    "auto": (native, triton) if _FMA_IN_TORCH else (triton,),
    "native": (native,),
    "triton": (triton, interpreted),
    "eager": (eager,),
}

_THERE = frozenset(("auto", "native", "eager"))  # they need nothing else


def check_engine(name: str) -> None:
    """Refuse the name of an engine that does not exist, or is not installed.

    Raises:
        InvalidValueError: If it is not the name of an engine.
        MissingExtraError: If what it needs is not installed.
    """
    if name not in _ENGINES:
        raise InvalidValueError.of(
            "engine",
            "one of " + ", ".join(map(repr, _ENGINES)),
            name,
            "'auto' takes the fastest that serves the tensors",
        )
    if name == "triton":
        check_extra("triton", extra="triton")


def prepare(plan: StepPlan, engine: str) -> PreparedStep:
    """Let the named engine prepare the plan; "auto" goes on to one that can.

    Raises:
        InvalidValueError: If there is no such engine, or the plan's tensors do not fit.
        InvalidTypeError: If a buffer is of another kind than its parameter.
        InvalidUseError: If the engine asked for cannot run this plan.
        MissingExtraError: If the engine asked for is not installed.
    """
    if engine not in _THERE:
        check_engine(engine)
    reason = ""
    for candidate in _ENGINES[engine]:
        prepared = candidate.prepare(plan)
        if not isinstance(prepared, str):
            return prepared
        reason = prepared
    of_devices = devices.prepare(plan, partial(prepare, engine=engine))
    if of_devices is not None:
        return of_devices
    if engine == "auto":
        return eager.prepare(plan)
    check_plan(plan)  # what no engine can run is named before what this one cannot
    raise InvalidUseError(
        f"engine={engine!r} cannot run this step: {reason}; use engine='auto', which takes "
        "torch's operations where it must"
    )
