"""Drives `mxnet.optimizer.SGD` and `mxnet.optimizer.NAG` through the updater of a trainer."""

import sys
from pathlib import Path
from typing import Any

import mxnet as mx

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main

# NAG of 1.4 is a chain of array operators, whose scalars are doubles; the fused kernels of the
# others have scalars that are float32 whatever the arrays are.
EXACT = ("mxnet-nag-1.4",)
SCALARS = ("lr", "momentum", "weight_decay")


class _MXNet:
    def __init__(self, case: Case, optimizer: Any, *, exact: bool) -> None:
        case.refuse_unless(dampening=0.0)
        self.rounded: dict[str, str] = {} if exact else dict.fromkeys(SCALARS, "float32")
        self._optimizer = optimizer(
            learning_rate=case.lr[0], momentum=case.momentum[0], wd=case.weight_decay
        )
        self._updater = mx.optimizer.get_updater(self._optimizer)
        self._p = mx.nd.array(case.start(), dtype=case.dtype)

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._optimizer.set_learning_rate(lr)
        self._optimizer.momentum = momentum
        self._updater(0, mx.nd.array(gradient, dtype=gradient.dtype), self._p)

    def parameter(self) -> Array:
        return self._p.asnumpy()

    def buffer(self) -> Array | None:
        held = self._updater.states.get(0)
        return None if held is None else held.asnumpy()


def _sgd(case: Case) -> _MXNet:
    case.refuse_unless(nesterov=False)
    return _MXNet(case, mx.optimizer.SGD, exact=False)


def _nag(row: str, case: Case) -> _MXNet:
    if any(case.momentum):
        case.refuse_unless(nesterov=True)
    return _MXNet(case, mx.optimizer.NAG, exact=row in EXACT)


nags = ("mxnet-nag-1.4", "mxnet-nag-1.5", "mxnet-nag-1.6", "mxnet-nag-2")
main(
    {"mxnet": mx.__version__},
    {"mxnet-sgd": _sgd, **{row: lambda case, row=row: _nag(row, case) for row in nags}},
)
