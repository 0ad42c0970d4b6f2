"""Drives the `SGDOptimizer` of scikit-learn's MLP, and the MLP's own L2 term."""

import sys
from pathlib import Path

import numpy as np
import sklearn
from sklearn.neural_network import MLPRegressor
from sklearn.neural_network._stochastic_optimizers import SGDOptimizer

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main


class _Sklearn:
    def __init__(self, case: Case) -> None:
        case.refuse_unless(dampening=0.0)
        self.rounded: dict[str, str] = {}
        self._network = MLPRegressor(alpha=case.weight_decay)
        self._network.coefs_ = [case.start()[np.newaxis]]
        self._optimizer = SGDOptimizer(
            self._network.coefs_,
            learning_rate_init=case.lr[0],
            momentum=case.momentum[0],
            nesterov=case.nesterov,
        )

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        gradients = [None]
        # One sample with the input 1: the deltas of the layer are the gradient.
        one = np.ones((1, 1), gradient.dtype)
        self._network._compute_loss_grad(0, 1, [one], [gradient[np.newaxis]], gradients, [None])  # noqa: SLF001
        self._optimizer.learning_rate = lr
        self._optimizer.momentum = momentum
        self._optimizer.update_params(self._network.coefs_, gradients)

    def parameter(self) -> Array:
        return self._network.coefs_[0][0]

    def buffer(self) -> Array | None:
        return self._optimizer.velocities[0][0]


main({"scikit-learn": sklearn.__version__, "numpy": np.__version__}, {"sklearn": _Sklearn})
