"""SGDs that do what few do, and have nothing wrong."""

import torch

from clean_sgd import CleanSGD


class ClipsTheNorm(CleanSGD):
    """Of all gradients together, to 1."""

    def step(self, closure=None):
        loss = None if closure is None else closure()
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms = [p.grad.double().norm() for p in params]
        self.scale = min(1.0, 1 / max(torch.stack(norms).norm().item(), 1e-12)) if norms else 1.0
        super().step()
        return loss

    def direction(self, p, g, group):
        return super().direction(p, self.scale * g, group)


class CentralizesGradients(CleanSGD):
    """Rows of a matrix have no mean left; equal elements do not move."""

    def direction(self, p, g, group):
        centred = g - g.mean(dim=-1, keepdim=True) if g.dim() > 1 and g.numel() else g
        return super().direction(p, centred, group)


class RoundsAtRandom(CleanSGD):
    """Up or down, in bfloat16."""

    def move(self, p, d, group):
        if p.dtype != torch.bfloat16:
            super().move(p, d, group)
            return
        bits = (p.float() - group["lr"] * d.float()).view(torch.int32)
        bits += torch.randint_like(bits, 1 << 16)
        p.copy_((bits & -(1 << 16)).view(torch.float32))


class StepsEverySecondTime(CleanSGD):
    """By the mean of two gradients."""

    def update(self, p, g, group):
        first = self.state[p].pop("first", None)
        if first is None:
            self.state[p]["first"] = g.clone()
        else:
            super().update(p, (first + g) / 2, group)


class WarmsUpFromNothing(CleanSGD):
    """Its first step is one with lr 0."""

    def move(self, p, d, group):
        if self.state[p].get("warm"):
            super().move(p, d, group)
        self.state[p]["warm"] = True
