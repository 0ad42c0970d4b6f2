"""Drives `chainer.optimizers.MomentumSGD`, `CorrectedMomentumSGD` and `NesterovAG`."""

import sys
from pathlib import Path
from typing import Any

import chainer

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main


class _Chainer:
    def __init__(self, case: Case, optimizer: Any, *, nesterov: bool) -> None:
        case.refuse_unless(dampening=0.0)
        if any(case.momentum):
            case.refuse_unless(nesterov=nesterov)
        self.rounded: dict[str, str] = {}
        self._p = chainer.Parameter(case.start())
        link = chainer.Link()
        with link.init_scope():
            link.p = self._p
        self._optimizer = optimizer(lr=case.lr[0], momentum=case.momentum[0]).setup(link)
        if case.weight_decay:
            self._optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(case.weight_decay))

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._optimizer.lr = lr
        self._optimizer.momentum = momentum
        self._p.grad = gradient
        self._optimizer.update()

    def parameter(self) -> Array:
        return self._p.array

    def buffer(self) -> Array | None:
        return (self._p.update_rule.state or {}).get("v")


optimizers = chainer.optimizers
main(
    {"chainer": chainer.__version__},
    {
        "chainer": lambda case: _Chainer(case, optimizers.MomentumSGD, nesterov=False),
        "chainer-corrected": lambda case: _Chainer(
            case, optimizers.CorrectedMomentumSGD, nesterov=False
        ),
        "chainer-nag": lambda case: _Chainer(case, optimizers.NesterovAG, nesterov=True),
    },
)
