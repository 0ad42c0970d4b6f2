"""Drives `optimi.SGD` with its default, coupled weight decay."""

import optimi
from torch_peer import Case, Refused, TorchPeer, main, versions


def _optimi(case: Case) -> TorchPeer:
    case.refuse_unless(nesterov=False)
    if case.dampening:
        raise Refused("dampening is 1 - momentum or none")
    return TorchPeer(
        case,
        lambda parameters: optimi.SGD(
            parameters,
            lr=case.lr[0],
            momentum=case.momentum[0],
            weight_decay=case.weight_decay,
            foreach=False,
            triton=False,
        ),
        held_as="exp_avg",
    )


main(versions("torch-optimi"), {"optimi": _optimi})
