"""Drives `lasagne.updates.apply_momentum` and `apply_nesterov_momentum` on plain SGD."""

import importlib
import os
import sys
from pathlib import Path

os.environ["THEANO_FLAGS"] = f"cxx=,blas.ldflags=,base_compiledir={sys.prefix}/theano"
import numpy as np
import theano
import theano.tensor.signal
from theano.tensor.signal import pool

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main

theano.tensor.signal.downsample = pool  # a name that Lasagne's layers import and Theano 1.0 lacks
lasagne = importlib.import_module("lasagne")


class _Lasagne:
    def __init__(self, case: Case) -> None:
        case.refuse_unless(dampening=0.0)
        self.rounded: dict[str, str] = {}
        self._dtype = case.dtype
        self._p = theano.shared(case.start())
        self._lr = theano.shared(self._scalar(case.lr[0]))
        self._momentum = theano.shared(self._scalar(case.momentum[0]))
        g = theano.tensor.vector(dtype=case.dtype)
        loss = (g * self._p).sum()
        if case.weight_decay:
            penalty = lasagne.regularization.l2(self._p)  # the sum of squares
            loss += self._scalar(case.weight_decay / 2) * penalty
        sgd = lasagne.updates.sgd(loss, [self._p], self._lr)
        apply = (
            lasagne.updates.apply_nesterov_momentum
            if case.nesterov
            else lasagne.updates.apply_momentum
        )
        updates = apply(sgd, momentum=self._momentum)
        (self._velocity,) = set(updates) - {self._p}
        self._step = theano.function([g], [], updates=updates)

    def _scalar(self, value: float) -> Array:
        return np.asarray(value, self._dtype)

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._lr.set_value(self._scalar(lr))
        self._momentum.set_value(self._scalar(momentum))
        self._step(gradient)

    def parameter(self) -> Array:
        return self._p.get_value()

    def buffer(self) -> Array | None:
        return self._velocity.get_value()


main(
    {"Lasagne": lasagne.__version__, "Theano": theano.__version__},
    {"lasagne": _Lasagne},
)
