"""Drives `keras.optimizers.SGD` on the torch backend."""

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main


class _Keras:
    def __init__(self, case: Case) -> None:
        case.refuse_unless(dampening=0.0)
        keras.config.set_floatx(case.dtype)  # the dtype of the learning rate
        self.rounded = {"lr": "float32"} if case.dtype == "float32" else {}
        self._p = keras.Variable(case.start(), dtype=case.dtype)
        self._optimizer = keras.optimizers.SGD(
            learning_rate=case.lr[0],
            momentum=case.momentum[0],
            nesterov=case.nesterov,
            weight_decay=case.weight_decay or None,
        )
        self._optimizer.build([self._p])

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._optimizer.learning_rate = lr
        self._optimizer.momentum = momentum
        self._optimizer.apply([keras.ops.convert_to_tensor(gradient)], [self._p])

    def parameter(self) -> Array:
        return keras.ops.convert_to_numpy(self._p)

    def buffer(self) -> Array | None:
        held = self._optimizer.momentums
        return keras.ops.convert_to_numpy(held[0]) if held else None


main({"keras": keras.__version__, "torch": torch.__version__}, {"keras3": _Keras})
