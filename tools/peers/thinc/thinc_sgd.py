"""Drives `thinc.api.SGD`, which has no momentum, with coupled L2."""

import sys
from pathlib import Path

import thinc.api
from thinc.about import __version__

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main


class _Thinc:
    def __init__(self, case: Case) -> None:
        case.refuse_unless(momentum=0, nesterov=False, dampening=0)
        self.rounded: dict[str, str] = {}
        self._p = case.start()
        self._optimizer = thinc.api.SGD(
            case.lr[0],
            L2=case.weight_decay,
            grad_clip=0.0,
            L2_is_weight_decay=False,
            use_averages=False,
        )

    def step(self, gradient: Array, lr: float, _momentum: float) -> None:
        self._optimizer.learn_rate = thinc.api.constant(lr)
        self._p, _ = self._optimizer((0, "p"), self._p, gradient)

    def parameter(self) -> Array:
        return self._p.copy()

    def buffer(self) -> Array | None:
        return None


main({"thinc": __version__}, {"thinc": _Thinc})
