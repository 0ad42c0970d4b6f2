"""Drives `nnabla.solvers.Momentum` and `Nesterov` on the CPU."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import nnabla
import nnabla.solvers

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main


class _NNabla:
    def __init__(self, kind: Any, nesterov: bool, case: Case) -> None:
        case.refuse_unless(dtype="float32", nesterov=nesterov, dampening=0)
        self.rounded: dict[str, str] = {}
        self._kind = kind
        self._weight_decay = case.weight_decay
        self._p = nnabla.Variable((len(case.p),), need_grad=True)
        self._p.d = case.start()
        self._solver = self._with_momentum(case.lr[0], case.momentum[0])

    def _with_momentum(self, lr: float, momentum: float) -> Any:
        self._momentum = momentum
        solver = self._kind(lr=lr, momentum=momentum)
        solver.set_parameters({"p": self._p})
        return solver

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        if momentum != self._momentum:  # no setter: another solver takes over the states
            states = self._solver.get_states()
            self._solver = self._with_momentum(lr, momentum)
            self._solver.set_states(states)
        self._solver.set_learning_rate(lr)
        self._p.g = gradient
        if self._weight_decay:
            self._solver.weight_decay(self._weight_decay)
        self._solver.update()

    def parameter(self) -> Array:
        return self._p.d.copy()

    def buffer(self) -> Array | None:
        return self._solver.get_states()["p"].pstate["m"].d.copy()


main(
    {"nnabla": nnabla.__version__},
    {
        "nnabla-momentum": partial(_NNabla, nnabla.solvers.Momentum, False),
        "nnabla-nesterov": partial(_NNabla, nnabla.solvers.Nesterov, True),
    },
)
