"""Drives `tinygrad.nn.optim.SGD`, classic or not, on the device that needs no compiler."""

import os
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

os.environ["DEV"] = "PYTHON"
from tinygrad import Tensor
from tinygrad.helpers import Context, getenv
from tinygrad.nn.optim import SGD

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main


class _Tinygrad:
    def __init__(self, case: Case, *, classic: bool) -> None:
        case.refuse_unless(dampening=0.0)
        os.environ["OPTIM_DTYPE"] = case.dtype  # of the buffer
        getenv.cache_clear()
        self.rounded = {"lr": "float32"}
        self._p = Tensor(case.start()).is_param_()
        self._optimizer = SGD(
            [self._p],
            lr=case.lr[0],
            momentum=case.momentum[0],
            weight_decay=case.weight_decay,
            nesterov=case.nesterov,
            classic=classic,
        )

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._optimizer.lr.assign(Tensor([lr])).realize()
        self._optimizer.momentum = momentum
        self._p.grad = Tensor(gradient)
        with Context(TRAINING=1):
            self._optimizer.step()

    def parameter(self) -> Array:
        return self._p.numpy()

    def buffer(self) -> Array | None:
        return self._optimizer.b[0].numpy() if self._optimizer.b else None


main(
    {"tinygrad": version("tinygrad")},
    {
        "tinygrad": partial(_Tinygrad, classic=False),
        "tinygrad-classic": partial(_Tinygrad, classic=True),
    },
)
