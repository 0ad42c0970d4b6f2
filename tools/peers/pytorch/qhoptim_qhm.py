"""Drives `qhoptim.pyt.QHM`, the reference implementation, with its coupled weight decay."""

from qhoptim.pyt import QHM
from torch_peer import Case, TorchPeer, main, versions

NU = 0.7


def _qhm(case: Case) -> TorchPeer:
    case.refuse_unless(nesterov=False, dampening=0.0)
    return TorchPeer(
        case,
        lambda parameters: QHM(
            parameters,
            lr=case.lr[0],
            momentum=case.momentum[0],
            nu=NU,
            weight_decay=case.weight_decay,
        ),
    )


main(versions("qhoptim"), {"qhm": _qhm})
