"""Drives `jittor.optim.SGD` on the CPU."""

import os
import sys
from pathlib import Path

# Jittor reads these when it is imported.
os.environ.update(
    JITTOR_HOME=str(Path(os.environ["PREFIX"]).resolve()),
    use_mkl="0",
    nvcc_path="",
    log_silent="1",
)

import jittor

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main


class _Jittor:
    def __init__(self, case: Case) -> None:
        rounded = ("lr", "momentum", "weight_decay", "dampening") if case.dtype == "float64" else ()
        self.rounded = dict.fromkeys(rounded, "float32")
        self._p = jittor.array(case.start())
        self._optimizer = jittor.optim.SGD(
            [self._p],
            lr=case.lr[0],
            momentum=case.momentum[0],
            weight_decay=case.weight_decay,
            dampening=case.dampening,
            nesterov=case.nesterov,
        )

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._optimizer.lr = lr
        self._optimizer.momentum = momentum
        self._optimizer.param_groups[0]["grads"] = [jittor.array(gradient)]
        self._optimizer.step()

    def parameter(self) -> Array:
        return self._p.numpy()

    def buffer(self) -> Array | None:
        return self._optimizer.param_groups[0]["values"][0].numpy()


jittor.flags.use_cuda = 0
jittor.flags.auto_convert_64_to_32 = 0
main({"jittor": jittor.__version__}, {"jittor": _Jittor})
