"""Drives `optax.sgd` and `optax.ema`, with injected hyperparameters."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import optax

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main

Transformation = optax.GradientTransformation


def _sgd(lr: float, momentum: float, weight_decay: float, *, nesterov: bool) -> Transformation:
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(lr, momentum, nesterov=nesterov),
    )


def _ema(lr: float, momentum: float, weight_decay: float, *, debias: bool) -> Transformation:
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.ema(momentum, debias=debias),
        optax.scale_by_learning_rate(lr),
    )


class _Optax:
    def __init__(self, case: Case, rule: Callable[..., Transformation], held: str) -> None:
        case.refuse_unless(dampening=0.0)
        jax.config.update("jax_enable_x64", case.dtype == "float64")
        injected = ("lr", "momentum", "weight_decay")
        self.rounded = dict.fromkeys(injected, "float32") if case.dtype == "float32" else {}
        self._held = held
        self._p = jax.numpy.asarray(case.start())
        self._rule = optax.inject_hyperparams(rule)(case.lr[0], case.momentum[0], case.weight_decay)
        self._state = self._rule.init(self._p)

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._state.hyperparams.update(lr=lr, momentum=momentum)
        move, self._state = self._rule.update(jax.numpy.asarray(gradient), self._state, self._p)
        self._p = optax.apply_updates(self._p, move)

    def parameter(self) -> Array:
        return self._p

    def buffer(self) -> Array | None:
        return optax.tree.get(self._state, self._held)


def _start_sgd(case: Case) -> _Optax:
    return _Optax(case, partial(_sgd, nesterov=case.nesterov), "trace")


def _start_ema(case: Case, *, debias: bool) -> _Optax:
    case.refuse_unless(nesterov=False)
    return _Optax(case, partial(_ema, debias=debias), "ema")


main(
    {"optax": optax.__version__, "jax": jax.__version__},
    {
        "optax": _start_sgd,
        "ema": partial(_start_ema, debias=False),
        "optax-ema": partial(_start_ema, debias=True),
    },
)
