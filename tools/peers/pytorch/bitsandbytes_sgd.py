"""Drives `bitsandbytes.optim.SGD` with its 32-bit state."""

from typing import Any

import bitsandbytes
from torch_peer import Case, Refused, TorchPeer, main, versions


class _BitsAndBytes(TorchPeer):
    def __init__(self, case: Case) -> None:
        if case.dtype != "float32":
            raise Refused("it steps in float32, whatever the parameter is")
        if case.momentum[0] == 0:
            raise Refused("momentum 0 is refused at construction")
        self._dampening = case.dampening
        super().__init__(
            case,
            lambda parameters: bitsandbytes.optim.SGD(
                parameters,
                lr=case.lr[0],
                momentum=case.momentum[0],
                dampening=case.dampening,
                weight_decay=case.weight_decay,
                nesterov=case.nesterov,
            ),
            held_as="state1",
        )

    def changed(self, lr: float, momentum: float) -> dict[str, Any]:
        return {"lr": lr, "betas": (momentum, self._dampening)}


main(versions("bitsandbytes"), {"bitsandbytes": _BitsAndBytes})
