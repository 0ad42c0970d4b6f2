"""Drives `mindspore.nn.Momentum` and `mindspore.nn.SGD` on the CPU."""

import sys
from pathlib import Path
from typing import Any

import mindspore
from mindspore import Parameter, Tensor, nn, ops

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, Refused, main


class _MindSpore:
    def __init__(self, case: Case, kind: Any, buffers: str, **options: Any) -> None:
        if case.dtype == "float64":
            raise Refused("the CPU's kernels compute in float32, or refuse float64")
        self.rounded: dict[str, str] = {}
        self._p = Parameter(Tensor(case.start()), name="p")
        self._optimizer = kind(
            [self._p],
            learning_rate=case.lr[0],
            momentum=case.momentum[0],
            weight_decay=case.weight_decay,
            **options,
        )
        (self._buffer,) = getattr(self._optimizer, buffers)

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        # By assign: what set_data gives does not reach the compiled step.
        ops.assign(self._optimizer.learning_rate, Tensor(lr, mindspore.float32))
        ops.assign(self._optimizer.momentum, Tensor(momentum, mindspore.float32))
        self._optimizer((Tensor(gradient),))

    def parameter(self) -> Array:
        return self._p.asnumpy().copy()

    def buffer(self) -> Array | None:
        return self._buffer.asnumpy().copy()


def _momentum(case: Case) -> _MindSpore:
    case.refuse_unless(dampening=0)
    if case.nesterov:
        raise Refused("the CPU's kernel ignores use_nesterov")
    return _MindSpore(case, nn.Momentum, "moments")


def _sgd(case: Case) -> _MindSpore:
    return _MindSpore(case, nn.SGD, "accum", dampening=case.dampening, nesterov=case.nesterov)


mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
mindspore.set_device("CPU")
main({"mindspore": mindspore.__version__}, {"mindspore-momentum": _momentum, "mindspore-sgd": _sgd})
