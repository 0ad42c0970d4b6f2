"""Drives `megengine.optimizer.SGD` on the CPU."""

import sys
from pathlib import Path

import megengine

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main


class _MegEngine:
    def __init__(self, case: Case) -> None:
        case.refuse_unless(dtype="float32", dampening=0)
        self.rounded: dict[str, str] = {}
        self._p = megengine.Parameter(case.start())
        self._optimizer = megengine.optimizer.SGD(
            [self._p],
            lr=case.lr[0],
            momentum=case.momentum[0],
            nesterov=case.nesterov,
            weight_decay=case.weight_decay,
        )

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._optimizer.param_groups[0].update(lr=lr, momentum=momentum)
        self._p.grad = megengine.Tensor(gradient)
        self._optimizer.step()

    def parameter(self) -> Array:
        return self._p.numpy().copy()

    def buffer(self) -> Array | None:
        states = self._optimizer.state_dict()["state"]
        held = states.get(0, {}).get("momentum_buffer")
        return None if held is None else held


megengine.set_default_device("cpu0")
main({"megengine": megengine.__version__}, {"megengine": _MegEngine})
