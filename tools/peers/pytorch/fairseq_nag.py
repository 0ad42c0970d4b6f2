"""Drives `fairseq.optim.nag.NAG`."""

from typing import Any

from torch_peer import Case, Refused, TorchPeer, import_alone, main, versions


def _registered(*_: Any, **__: Any) -> Any:
    return lambda kept: kept


NAG = import_alone(
    "fairseq.optim.nag",
    {
        "fairseq.optim": {"FairseqOptimizer": object, "register_optimizer": _registered},
        "fairseq.dataclass": {"FairseqDataclass": object},
        "omegaconf": {"II": str, "DictConfig": dict},
    },
).NAG


def _fairseq(case: Case) -> TorchPeer:
    if case.dtype != "float32":
        raise Refused("gradient and buffer are float32, whatever the parameter is")
    case.refuse_unless(dampening=0.0)
    if any(case.momentum):
        case.refuse_unless(nesterov=True)
    return TorchPeer(
        case,
        lambda parameters: NAG(
            parameters,
            lr=case.lr[0],
            momentum=case.momentum[0],
            weight_decay=case.weight_decay,
        ),
    )


main(versions("fairseq"), {"fairseq": _fairseq})
