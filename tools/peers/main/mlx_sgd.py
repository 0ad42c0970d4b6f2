"""Drives `mlx.optimizers.SGD` on the CPU."""

import sys
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.optimizers import SGD

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, Refused, main


class _Mlx:
    def __init__(self, case: Case) -> None:
        mx.set_default_device(mx.cpu)  # the only one with float64
        self.rounded = {"lr": "float32"}
        self._p = {"p": _array(case.start())}
        try:
            self._optimizer = SGD(
                case.lr[0],
                momentum=case.momentum[0],
                weight_decay=case.weight_decay,
                dampening=case.dampening,
                nesterov=case.nesterov,
            )
        except ValueError as error:
            raise Refused(str(error)) from error
        self._optimizer.init(self._p)

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._optimizer.learning_rate = lr
        self._optimizer.momentum = momentum
        self._p = self._optimizer.apply_gradients({"p": _array(gradient)}, self._p)

    def parameter(self) -> Array:
        return np.array(self._p["p"])

    def buffer(self) -> Array | None:
        return np.array(self._optimizer.state["p"]["v"])


def _array(values: Array) -> mx.array:
    return mx.array(values.tolist(), getattr(mx, str(values.dtype)))


main({"mlx": version("mlx"), "mlx-cpu": version("mlx-cpu")}, {"mlx": _Mlx})
