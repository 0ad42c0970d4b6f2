"""Drives `autograd.misc.optimizers.sgd`, a loop of its own, which runs in a thread here."""

import sys
from importlib.metadata import version
from pathlib import Path
from queue import Queue
from threading import Thread

import numpy as np
from autograd.misc.optimizers import sgd

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, Refused, main


class _Autograd:
    def __init__(self, case: Case) -> None:
        case.refuse_unless(nesterov=False, weight_decay=0.0, dampening=0.0)
        if case.dtype != "float64":
            raise Refused("the buffer is float64, and so is the parameter after the first step")
        self.rounded: dict[str, str] = {}
        # The loop takes arrays for its constants, and reads them at every step.
        self._lr, self._momentum = np.array(case.lr[0]), np.array(case.momentum[0])
        self._gradients: Queue[Array] = Queue()
        self._states: Queue[tuple[Array, Array]] = Queue()
        constants = {"step_size": self._lr, "mass": self._momentum}
        count = len(case.lr) + 1  # the last gradient is asked for and never given
        loop = (self._gradient, case.start(), None, count)
        Thread(target=sgd, args=loop, kwargs=constants, daemon=True).start()
        self._p, self._v = self._states.get()

    def _gradient(self, p: Array, _: int) -> Array:
        """Give the loop its gradient, once there is one, and see the velocity it holds."""
        frame = sys._getframe()  # noqa: SLF001
        while frame.f_code.co_name != "sgd":
            frame = frame.f_back
        self._states.put((p, frame.f_locals["velocity"]))
        return self._gradients.get()

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._lr[...], self._momentum[...] = lr, momentum
        self._gradients.put(gradient)
        self._p, self._v = self._states.get()

    def parameter(self) -> Array:
        return self._p

    def buffer(self) -> Array | None:
        return self._v


main({"autograd": version("autograd"), "numpy": np.__version__}, {"autograd": _Autograd})
