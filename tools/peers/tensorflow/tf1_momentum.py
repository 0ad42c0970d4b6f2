"""Drives `tf.compat.v1.train.MomentumOptimizer` in a graph, with lr and momentum fed to it."""

import sys
from pathlib import Path

import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, Refused, main


class _TF1:
    def __init__(self, case: Case) -> None:
        case.refuse_unless(dampening=0.0)
        if case.weight_decay:
            raise Refused("weight decay belongs to the loss")
        self.rounded: dict[str, str] = {}
        with tf.Graph().as_default() as graph:
            self._lr, self._momentum = (tf.compat.v1.placeholder(case.dtype, []) for _ in range(2))
            self._gradient = tf.compat.v1.placeholder(case.dtype, len(case.p))
            self._p = tf.compat.v1.get_variable("p", initializer=case.start(), use_resource=True)
            optimizer = tf.compat.v1.train.MomentumOptimizer(
                self._lr, self._momentum, use_nesterov=case.nesterov
            )
            self._step = optimizer.apply_gradients([(self._gradient, self._p)])
            self._buffer = optimizer.get_slot(self._p, "momentum")
            self._session = tf.compat.v1.Session(graph=graph)
            self._session.run(tf.compat.v1.global_variables_initializer())

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        given = {self._gradient: gradient, self._lr: lr, self._momentum: momentum}
        self._session.run(self._step, given)

    def parameter(self) -> Array:
        return self._session.run(self._p)

    def buffer(self) -> Array:
        return self._session.run(self._buffer)


main({"tensorflow": tf.__version__}, {"tf1": _TF1})
