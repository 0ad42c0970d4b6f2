"""Drives `timm.optim.SGDW`, with its decay and with the corrected one."""

from torch_peer import Case, TorchPeer, import_alone, main, versions

SGDW = import_alone("timm.optim.sgdw").SGDW  # timm as a whole wants torchvision


def _timm(case: Case, corrected: bool = False) -> TorchPeer:
    return TorchPeer(
        case,
        lambda parameters: SGDW(
            parameters,
            lr=max(case.lr) if corrected else case.lr[0],  # the peak is what it wants here
            momentum=case.momentum[0],
            dampening=case.dampening,
            weight_decay=case.weight_decay,
            nesterov=case.nesterov,
            corrected_weight_decay=corrected,
            foreach=False,
        ),
    )


main(versions("timm"), {"timm": _timm, "timm-corrected": lambda case: _timm(case, True)})
