"""Drives `paddle.optimizer.Momentum`."""

import sys
from pathlib import Path

import paddle

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main


class _Paddle:
    def __init__(self, case: Case) -> None:
        case.refuse_unless(dampening=0.0)
        self.rounded = {"momentum": "float32", "weight_decay": "float32"}
        self._p = paddle.to_tensor(case.start(), stop_gradient=False)
        self._optimizer = paddle.optimizer.Momentum(
            learning_rate=case.lr[0],
            momentum=case.momentum[0],
            parameters=[self._p],
            use_nesterov=case.nesterov,
            weight_decay=case.weight_decay or None,
        )

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._optimizer.set_lr(lr)
        self._optimizer._momentum = momentum  # noqa: SLF001 - nothing public changes it
        self._p.grad = paddle.to_tensor(gradient)
        self._optimizer.step()

    def parameter(self) -> Array:
        return self._p.numpy()

    def buffer(self) -> Array | None:
        return self._optimizer.state_dict()[f"{self._p.name}_velocity_0"].numpy()


main({"paddlepaddle": paddle.__version__}, {"paddle": _Paddle})
