"""Cases of gradients: each catches what it is for, and nothing else does."""

import torch

from clean_sgd import CleanSGD
from examining import accusations, caught_alone, failures, script_failure, subject, texts
from sgdm.audit.cases.gradients import CASES
from stepping import false_accusations, step_failures


class DecaysTheGradient(CleanSGD):
    def direction(self, p, g, group):
        g = g.neg_() if group["maximize"] else g
        return g.add_(p, alpha=group["weight_decay"])


class KeepsTheGradient(CleanSGD):
    """As the buffer."""

    def buffer(self, p, d, group):
        if p in self.state:
            return super().buffer(p, d, group)
        self.state[p]["momentum_buffer"] = d
        return d


class StartsOnceAGroup(CleanSGD):
    """Later than that, a buffer starts from zero, and is dampened."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        self.started = True
        return loss

    def buffer(self, p, d, group):
        if hasattr(self, "started"):
            self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        return super().buffer(p, d, group)


class StopsForLateOnes(StartsOnceAGroup):
    def buffer(self, p, d, group):
        if hasattr(self, "started") and p not in self.state:
            raise KeyError("momentum_buffer")
        return CleanSGD.buffer(self, p, d, group)


class AsksTheLastOne(CleanSGD):
    """Whether a step is the first of all, as apex does."""

    def update(self, p, g, group):
        last = group["params"][-1]
        if p is not last and not self.state.get(last):
            self.state[p].clear()
        super().update(p, g, group)


class DecaysWithoutGradient(CleanSGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None and p not in self.state:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
        return super().step(closure)


class CoastsWithoutGradient(CleanSGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None and p in self.state and not group["dampening"]:
                    self.move(p, self.state[p]["momentum_buffer"], group)
        return super().step(closure)


class LosesCount(CleanSGD):
    """Of buffers, when a gradient is missing that was there."""

    def buffer(self, p, d, group):
        lost = any(q.grad is None and self.state[q] for q in group["params"] if q in self.state)
        return d.clone() if lost and p in self.state else super().buffer(p, d, group)


class NeedsAFirstGradient(CleanSGD):
    def direction(self, p, g, group):
        if p not in self.state and g.numel() and not g.any():
            raise ZeroDivisionError("float division by zero")
        return super().direction(p, g, group)


class SkipsZeroGradients(CleanSGD):
    def update(self, p, g, group):
        if g.any() or p not in self.state:
            super().update(p, g, group)


LATE = "a-first-gradient-may-be-late"
PLANTED = [
    (
        DecaysTheGradient,
        "the-gradient-is-kept",
        "p.grad[0, 0] was -1.12584, and is -1.02584",
    ),
    (
        KeepsTheGradient,
        "memory-of-gradients-is-reused",
        "gradients written into the old p.grad make other steps than new tensors do",
    ),
    (
        StartsOnceAGroup,
        "a-late-first-step-is-a-first-step",
        "the first step takes 1 to 0.9, a late one to 0.95",
    ),
    (
        AsksTheLastOne,
        "an-early-gradient-waits-for-none",
        "beside one without gradient it goes to -0.029, alone to -0.0551",
    ),
    (
        DecaysWithoutGradient,
        "no-gradient-no-step",
        "a parameter that never had a gradient went from 1 to 0.9801",
    ),
    (
        CoastsWithoutGradient,
        "a-parameter-rests-without-gradient",
        "while its grad is None, a parameter goes from 0.8999999761581421 to 0.7999999523162842",
    ),
    (
        LosesCount,
        "others-go-on-while-grad-is-none",
        "a parameter takes other steps while the grad of the one before it is None",
    ),
    (
        NeedsAFirstGradient,
        "zero-gradients-are-harmless",
        "ZeroDivisionError: float division by zero",
    ),
    (
        SkipsZeroGradients,
        "a-zero-gradient-is-a-gradient",
        "momentum does not go on when the whole gradient is zero",
    ),
]


test_caught_by_its_case_alone_and_shown_by_its_script = caught_alone(PLANTED, step_failures)


def test_a_crash_on_a_late_gradient_is_caught():
    examined = subject(StopsForLateOnes, lr=0.1)
    text = "KeyError: 'momentum_buffer'"
    found = failures(examined, CASES)
    assert texts(found) == {LATE: text, "a-late-first-step-is-a-first-step": text}
    assert text in script_failure(LATE, examined, found)


def test_a_late_gradient_without_effect_is_caught():
    class IgnoresLateOnes(StartsOnceAGroup):
        def update(self, p, g, group):
            if p in self.state or not hasattr(self, "started"):
                super().update(p, g, group)

    found = accusations(subject(IgnoresLateOnes, lr=0.1, momentum=0.9), [CASES[2]])
    assert found == {LATE: "the first step moves by 0.4, and by 0 if it comes late"}


def test_every_planted_defect_has_its_case():
    assert {name for _, name, _ in PLANTED} | {LATE} == {case.name for case in CASES}


def test_foreach_nesterov_of_torch():
    found = accusations(subject(torch.optim.SGD, lr=0.1, foreach=True), CASES)
    assert found == {"the-gradient-is-kept": "p.grad[0, 0] was -1.12584, and is -2.1391"}


def test_fused_sgd_of_torch():
    found = accusations(subject(torch.optim.SGD, lr=0.1, fused=True), CASES)
    text = "TypeError: expected Tensor as element 1 in argument 2, but got NoneType"
    assert found[LATE] == text


def test_nobody_is_accused_falsely():
    assert false_accusations(CASES) == {}
