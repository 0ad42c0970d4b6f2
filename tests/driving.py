"""Driving an optimizer: drawn problems, schedules, missing gradients, single steps."""

from typing import Any

import numpy as np
import torch

import sgdm
from cases import Case

STEPS = 40


def make(case: Case, params, **arguments) -> sgdm.SGD:
    given: dict[str, Any] = {}
    given.update(lr=0.1, momentum=0.9)
    given.update(case.options)
    given.update(arguments)
    return sgdm.SGD(params, convention=case.convention, **given)


def drive(optimizer, params, gradient, eps, mu, present) -> list[list[np.ndarray]]:
    """Step under schedules, each parameter skipping the steps where it has no gradient."""
    ahead = sgdm.get_convention(optimizer.param_groups[0]["convention"]).momentum == "next"
    path = [[p.detach().numpy().copy() for p in params]]
    for t in range(present.shape[0]):
        for group in optimizer.param_groups:
            group["lr"], group["momentum"] = eps(t), mu(t + ahead)

        def closure(t=t):
            for i, p in enumerate(params):
                point = p.detach().numpy()
                p.grad = torch.from_numpy(np.asarray(gradient(point, t))) if present[t, i] else None
            return torch.tensor(0.0)

        optimizer.step(closure)
        path.append([p.detach().numpy().copy() for p in params])
    return path


class Problem:
    """Drawn parameters, gradients, schedules and missing gradients."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        lrs, momenta = rng.uniform(0.001, 0.2, STEPS + 2), rng.uniform(0, 0.95, STEPS + 2)
        self.eps, self.mu = (lambda t: float(lrs[t])), (lambda t: float(momenta[t]))
        shifts = rng.standard_normal(STEPS)
        self.gradient = lambda x, t: 0.4 * x + np.sin(x) + shifts[t]
        self.starts = [rng.standard_normal(shape) for shape in ((3,), (2, 4), ())]
        self.present = rng.random((STEPS, 3)) > 0.25

    def params(self):
        return [torch.nn.Parameter(torch.from_numpy(np.array(x))) for x in self.starts]


def parameter(*values: float, dtype=torch.float64) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


def step_with(optimizer, *gradients) -> None:
    """One step with these gradients; None is none."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, g in zip(params, gradients, strict=True):
        p.grad = None if g is None else torch.as_tensor(g, dtype=p.dtype).expand(p.shape).clone()
    optimizer.step()


def buffer_of(optimizer, p) -> torch.Tensor:
    return optimizer.state[p]["momentum_buffer"]
