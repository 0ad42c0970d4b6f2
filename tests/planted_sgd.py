"""SGD with one thing wrong each; a test says which case finds it."""

import copy
import os
import time
from collections import defaultdict

import torch

from clean_sgd import CleanSGD

PARENT = os.getpid()


class LosesState(CleanSGD):
    def state_dict(self):
        return {**super().state_dict(), "state": {}}


class NumbersStates(CleanSGD):
    """By their place among the states, not among the parameters."""

    def state_dict(self):
        saved = super().state_dict()
        return {**saved, "state": dict(enumerate(saved["state"].values()))}


class Schedule:
    pass


class SavesAnObject(CleanSGD):
    def state_dict(self):
        return {**super().state_dict(), "schedule": Schedule()}


class KeepsItsSettings(CleanSGD):
    def load_state_dict(self, state_dict):
        own = super().state_dict()["param_groups"]
        super().load_state_dict({**state_dict, "param_groups": own})


class EmptiesTheDict(CleanSGD):
    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        state_dict["state"].clear()


class LosesStateWhenCopied(CleanSGD):
    def __deepcopy__(self, memo):
        groups = [
            {**group, "params": copy.deepcopy(group["params"], memo)} for group in self.param_groups
        ]
        return type(self)(groups)


class SharesStateWhenCopied(CleanSGD):
    def __deepcopy__(self, memo):
        memo |= {id(value): value for state in self.state.values() for value in state.values()}
        other = type(self).__new__(type(self))
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return other


class LosesStateWhenPickled(CleanSGD):
    def __getstate__(self):
        return {**super().__getstate__(), "state": defaultdict(dict)}

    def __deepcopy__(self, memo):
        other = type(self).__new__(type(self))
        other.__setstate__(copy.deepcopy(super().__getstate__(), memo))
        return other


class CannotBePickled(CleanSGD):
    def __getstate__(self):
        return {**super().__getstate__(), "schedule": lambda: None}


class WideBuffer(CleanSGD):
    """A float32 buffer, which torch's load_state_dict casts to the parameter's dtype."""

    def buffer(self, p, d, group):
        return super().buffer(p, d.float(), group)


class CopiesState(CleanSGD):
    def load_state_dict(self, state_dict):
        super().load_state_dict(copy.deepcopy(state_dict))


class StepsAnyway(CleanSGD):
    """Says that it looks after the overflow itself, and does not."""

    _step_supports_amp_scaling = True


class UninitialisedBuffer(CleanSGD):
    """Stands for memory that nobody wrote, which is NaN in the deterministic mode only."""

    def buffer(self, p, d, group):
        if not self.state[p] and torch.are_deterministic_algorithms_enabled():
            self.state[p]["momentum_buffer"] = torch.empty_like(d)
        return super().buffer(p, d, group)


class ReadsTheFirstGroup(CleanSGD):
    def move(self, p, d, group):
        super().move(p, d, self.param_groups[0])


class ForgetsItsDefaults(CleanSGD):
    """Of a group that is added once there is a state."""

    def add_param_group(self, param_group):
        if self.state:
            param_group.setdefault("lr", 0.001)
        super().add_param_group(param_group)


class StepsOneDtype(CleanSGD):
    def update(self, p, g, group):
        if p.dtype == group["params"][0].dtype:
            super().update(p, g, group)


class DecaysOncePerParameter(CleanSGD):
    """Like timm's SGDW of 2026: the whole list is decayed once for each of its members."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for _ in group["params"]:
                torch._foreach_mul_(group["params"], 1 - group["lr"] * group["weight_decay"])
        return super().step(closure)


class SkipsWhatIsSmaller(CleanSGD):
    """Than the parameter before it."""

    def update(self, p, g, group):
        i = next(i for i, other in enumerate(group["params"]) if other is p)
        if i == 0 or p.numel() >= group["params"][i - 1].numel():
            super().update(p, g, group)


class RefusesASecondDtype(CleanSGD):
    def add_param_group(self, param_group):
        super().add_param_group(param_group)
        if len({p.dtype for p in param_group["params"]}) > 1:
            raise ValueError("one dtype a group")


class CallsTwice(CleanSGD):
    def step(self, closure=None):
        if closure is not None:
            closure()
        return super().step(closure)


class ClosureWithoutGradients(CleanSGD):
    def step(self, closure=None):
        return super().step(closure and torch.no_grad()(closure))


class KeepsTheLoss(CleanSGD):
    def step(self, closure=None):
        super().step(closure)


class ReturnsAnotherLoss(CleanSGD):
    def step(self, closure=None):
        loss = super().step(closure)
        return None if loss is None else loss / 2


class ReadsGradientsFirst(CleanSGD):
    def step(self, closure=None):
        before = [p.grad for p in self.param_groups[0]["params"]]
        loss = None if closure is None else closure()
        for p, grad in zip(self.param_groups[0]["params"], before, strict=True):
            p.grad = grad
        super().step()
        return loss


class NeedsGradMode(CleanSGD):
    def step(self, closure=None):
        return super().step(closure) if torch.is_grad_enabled() else None


class LeavesARest(CleanSGD):
    """Behind as many equal parts as there are threads."""

    def move(self, p, d, group):
        rest = p.numel() % torch.get_num_threads()
        for flat, by in zip(p.view(-1).split(p.numel() - rest)[:1], [d], strict=True):
            super().move(flat, by.reshape(-1)[: flat.numel()], group)


class FailsInAChild(CleanSGD):
    def move(self, p, d, group):
        if os.getpid() != PARENT:
            raise RuntimeError("not in a child")
        super().move(p, d, group)


class HangsInAChild(CleanSGD):
    def move(self, p, d, group):
        if os.getpid() != PARENT:
            time.sleep(100)
        super().move(p, d, group)


class AlwaysSetsToNone(CleanSGD):
    def zero_grad(self, set_to_none=True):
        super().zero_grad()


class NeverSetsToNone(CleanSGD):
    def zero_grad(self, set_to_none=True):
        super().zero_grad(set_to_none=False)


class StateRequiresGrad(CleanSGD):
    def buffer(self, p, d, group):
        return super().buffer(p, d, group).requires_grad_()


class Freezes(CleanSGD):
    def move(self, p, d, group):
        super().move(p.requires_grad_(requires_grad=False), d, group)


class WritesToData(CleanSGD):
    def move(self, p, d, group):
        super().move(p.data, d, group)


class CopiesTheModel(CleanSGD):
    @torch.no_grad()
    def step(self, closure=None):
        kept = [p.clone() for group in self.param_groups for p in group["params"]]
        loss = super().step(closure)
        kept.clear()
        return loss
