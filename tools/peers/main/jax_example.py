"""Drives `jax.example_libraries.optimizers.momentum` and `nesterov`."""

import sys
from pathlib import Path

import jax
from jax.example_libraries import optimizers

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main


class _Jax:
    def __init__(self, case: Case) -> None:
        case.refuse_unless(weight_decay=0.0, dampening=0.0)
        jax.config.update("jax_enable_x64", case.dtype == "float64")
        self.rounded: dict[str, str] = {}
        self._t = 0
        self._rule = optimizers.nesterov if case.nesterov else optimizers.momentum
        start = self._rule(case.lr[0], case.momentum[0]).init_fn
        self._state = start(jax.numpy.asarray(case.start()))

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        # The rule is three functions that hold constants and no state.
        update = self._rule(lr, momentum).update_fn
        self._state = update(self._t, jax.numpy.asarray(gradient), self._state)
        self._t += 1

    def parameter(self) -> Array:
        return optimizers.unpack_optimizer_state(self._state).subtree[0]

    def buffer(self) -> Array | None:
        return optimizers.unpack_optimizer_state(self._state).subtree[1]


main({"jax": jax.__version__}, {"jax-example": _Jax})
