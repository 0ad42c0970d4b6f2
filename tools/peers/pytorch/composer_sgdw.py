"""Drives `composer.optim.DecoupledSGDW`."""

from torch_peer import Case, TorchPeer, import_alone, main, versions

DecoupledSGDW = import_alone(
    "composer.optim.decoupled_weight_decay", {"composer.utils": {"dist": None}}
).DecoupledSGDW


def _composer(case: Case) -> TorchPeer:
    return TorchPeer(
        case,
        lambda parameters: DecoupledSGDW(
            parameters,
            lr=case.lr[0],
            momentum=case.momentum[0],
            dampening=case.dampening,
            weight_decay=case.weight_decay,
            nesterov=case.nesterov,
        ),
    )


main(versions("mosaicml"), {"composer": _composer})
