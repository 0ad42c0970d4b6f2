"""Drives `tf_keras.optimizers.SGD`, the one that has weight decay of its own."""

import sys
from pathlib import Path

import tensorflow as tf
import tf_keras

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main


class _TFKeras:
    def __init__(self, case: Case) -> None:
        case.refuse_unless(dampening=0.0)
        self.rounded = {"momentum": "float32", "weight_decay": "float32"}
        tf_keras.backend.set_floatx(case.dtype)  # of the variable that holds lr
        self._p = tf.Variable(case.start())
        self._optimizer = tf_keras.optimizers.SGD(
            learning_rate=case.lr[0],
            momentum=case.momentum[0],
            nesterov=case.nesterov,
            weight_decay=case.weight_decay or None,
            jit_compile=False,
        )
        self._optimizer.build([self._p])

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._optimizer.learning_rate = lr
        self._optimizer.momentum = momentum
        self._optimizer.apply_gradients([(tf.constant(gradient), self._p)])

    def parameter(self) -> Array:
        return self._p.numpy()

    def buffer(self) -> Array:
        return self._optimizer.momentums[0].numpy()


main(
    {"tensorflow": tf.__version__, "tf-keras": tf_keras.__version__},
    {"tf-keras": _TFKeras},
)
