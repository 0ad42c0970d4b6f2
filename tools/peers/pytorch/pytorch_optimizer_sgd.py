"""Drives `pytorch_optimizer.SGDW` and `pytorch_optimizer.AccSGD`."""

from typing import Any

import pytorch_optimizer
from torch_peer import Case, Refused, TorchPeer, main, versions

KAPPA, XI, CONSTANT = 10.0, 2.0, 0.7


def _sgdw(case: Case) -> TorchPeer:
    return TorchPeer(
        case,
        lambda parameters: pytorch_optimizer.SGDW(
            parameters,
            lr=case.lr[0],
            momentum=case.momentum[0],
            dampening=case.dampening,
            weight_decay=case.weight_decay,
            nesterov=case.nesterov,
            foreach=False,
        ),
    )


class _AccSGD(TorchPeer):
    def __init__(self, case: Case) -> None:
        case.refuse_unless(nesterov=False, dampening=0.0)
        if set(case.momentum) != {0.9}:
            raise Refused("there is no momentum; kappa, xi and constant stand for one near 0.9")
        super().__init__(
            case,
            lambda parameters: pytorch_optimizer.AccSGD(
                parameters,
                lr=case.lr[0],
                kappa=KAPPA,
                xi=XI,
                constant=CONSTANT,
                weight_decay=case.weight_decay,
                foreach=False,
            ),
        )

    def changed(self, lr: float, _: float) -> dict[str, Any]:
        return {"lr": lr}


main(versions("pytorch-optimizer"), {"kozistr-sgdw": _sgdw, "accsgd": _AccSGD})
