"""A step over several devices: on each of them, by the engine that serves it."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from sgdm.engines.check import check_plan
from sgdm.engines.plan import GradientNorm, Memory, Part, PreparedStep, StepPlan

__all__ = ["prepare"]


def prepare(
    plan: StepPlan, prepare_one: Callable[[StepPlan], PreparedStep]
) -> "_StepOfDevices | None":
    """Return the plan ready to be run, device by device; None where there is one device.

    Args:
        plan: The step.
        prepare_one: Prepares what one device has of it.

    Raises:
        InvalidValueError: If tensors that belong together are on two devices.
    """
    devices = [list(map(_device_of, part.params)) for part in plan.parts]
    if plan.differentiable or len({device for row in devices for device in row}) < 2:
        return None
    check_plan(plan)  # before the first device has prepared, and in the words of the whole
    pieces = [part.split(keys) for part, keys in zip(plan.parts, devices, strict=True)]
    by_device: dict[Hashable, StepPlan] = {}
    for row in pieces:
        for device, piece in row.items():
            if device not in by_device:
                memory = plan.memory.on_device.setdefault(str(device), Memory())
                by_device[device] = StepPlan(memory=memory)
            by_device[device].parts.append(piece)
    prepared = list(map(prepare_one, by_device.values()))
    return _StepOfDevices(list(zip(plan.parts, pieces, devices, strict=True)), prepared)


def _device_of(param: Tensor) -> torch.device:
    return param.device


class _StepOfDevices:
    """A plan that the engine of each device has looked at. What becomes of it the host decides."""

    __slots__ = ("_parts", "_prepared")

    def __init__(
        self,
        parts: list[tuple[Part, dict[Hashable, Part], list[torch.device]]],
        prepared: list[PreparedStep],
    ) -> None:
        self._parts = parts
        self._prepared = prepared

    def gradient_norm(self) -> GradientNorm:
        """Read the gradients, and wait for all devices."""
        norms = [prepared.gradient_norm() for prepared in self._prepared]
        bad = {id(norm.nonfinite): norm.nonfinite for norm in norms if norm.nonfinite is not None}
        params = (param for part, _, _ in self._parts for param in part.params)
        nonfinite = next((param for param in params if id(param) in bad), None) if bad else None
        return GradientNorm.of_squares([norm.square for norm in norms], nonfinite)

    def step(self, scale: float) -> None:
        """Update everything; no device waits for another."""
        for prepared in self._prepared:
            prepared.step(scale)
        for part, pieces, devices in self._parts:
            part.take_buffers(pieces, devices)
