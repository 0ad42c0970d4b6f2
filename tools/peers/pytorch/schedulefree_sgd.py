"""Drives `schedulefree.SGDScheduleFree` in its train mode; the buffer is z."""

import schedulefree
import torch
from torch_peer import Case, Refused, TorchPeer, main, versions


def _schedulefree(case: Case) -> TorchPeer:
    case.refuse_unless(nesterov=False, dampening=0.0)
    if case.momentum[0] == 0:
        raise Refused("momentum 0 is refused at construction")

    def build(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = schedulefree.SGDScheduleFree(
            parameters,
            lr=case.lr[0],
            momentum=case.momentum[0],
            weight_decay=case.weight_decay,
            foreach=False,
        )
        optimizer.train()
        return optimizer

    return TorchPeer(case, build, held_as="z")


main(versions("schedulefree"), {"schedulefree": _schedulefree})
