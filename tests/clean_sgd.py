"""An SGD with nothing wrong, in pieces that a test replaces to plant a defect."""

import math
from typing import Any

import torch


class CleanSGD(torch.optim.Optimizer):
    """torch's rule, one parameter after the other."""

    def __init__(
        self,
        params,
        lr=1e-3,
        momentum=0.0,
        dampening=0.0,
        weight_decay=0.0,
        nesterov=False,
        maximize=False,
    ):
        values = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
        }
        for name, value in values.items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"Invalid {name}: {value}")
        super().__init__(params, {**values, "nesterov": nesterov, "maximize": maximize})

    @torch.no_grad()
    def step(self, closure=None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, group)
        return loss

    def update(self, p, g, group):
        d = self.direction(p, g, group)
        if group["momentum"] != 0:
            b = self.buffer(p, d, group)
            d = d + group["momentum"] * b if group["nesterov"] else b
        self.move(p, d, group)

    def direction(self, p, g, group):
        g = -g if group["maximize"] else g
        return g + group["weight_decay"] * p if group["weight_decay"] else g

    def buffer(self, p, d, group):
        state = self.state[p]
        b = state.get("momentum_buffer")
        if b is None:
            b = state["momentum_buffer"] = d.clone()
        else:
            b.mul_(group["momentum"]).add_(d, alpha=1 - group["dampening"])
        return b

    def move(self, p, d, group):
        p.add_(d, alpha=-group["lr"])
