"""Drives `torch.optim.SGD`, the loop over tensors."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main


class _Torch:
    def __init__(self, case: Case) -> None:
        self.rounded: dict[str, str] = {}
        self._p = torch.nn.Parameter(torch.from_numpy(case.start()))
        self._optimizer = torch.optim.SGD(
            [self._p],
            lr=case.lr[0],
            momentum=case.momentum[0],
            dampening=case.dampening,
            weight_decay=case.weight_decay,
            nesterov=case.nesterov,
            foreach=False,
        )

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._optimizer.param_groups[0].update(lr=lr, momentum=momentum)
        self._p.grad = torch.from_numpy(gradient)
        self._optimizer.step()

    def parameter(self) -> Array:
        return self._p.detach().numpy()

    def buffer(self) -> Array | None:
        held = self._optimizer.state.get(self._p, {}).get("momentum_buffer")
        return None if held is None else held.numpy()


main({"torch": torch.__version__}, {"torch": _Torch})
