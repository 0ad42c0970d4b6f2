"""What is measured without the table: numbers, formulas, and who is no SGD."""

from typing import Any

import pytest
import torch

import sgdm
from sgdm.audit.observe import observe
from sgdm.audit.subject import Subject
from sgdm.audit.traits import Traits, traits_of


def measured(factory, **settings) -> Traits:
    return traits_of(observe(Subject(factory, {"lr": 0.1, **settings})))


@pytest.mark.parametrize("scale", [0.7, 1.0, 3.0])
def test_the_impulse_is_the_one_of_the_formula(scale):
    found = measured(torch.optim.SGD, lr=0.1 * scale, momentum=0.9, nesterov=True).impulse
    assert found is not None
    lr, momentum = 0.083 * scale, 0.873
    assert found.memory == pytest.approx(momentum, rel=1e-12)
    assert found.now == pytest.approx(lr * (1 + momentum), rel=1e-12)
    assert found.before == pytest.approx(lr * momentum, rel=1e-12)
    assert found.residual < 1e-14


RECOVERED = [
    ({}, "Δ_(t+1) = μ·Δ_t - ε·d_t", "by ε in its step and by ε/(1 - μ) in all"),
    (
        {"nesterov": True},
        "Δ_(t+1) = μ·Δ_t - ε·(1 + μ)·d_t + ε·μ·d_(t-1)",
        "by ε·(1 + μ) in its step and by ε/(1 - μ) in all",
    ),
    (
        {"convention": "ema"},
        "Δ_(t+1) = μ·Δ_t - ε·(1 - μ)·d_t",
        "by ε·(1 - μ) in its step and by ε in all",
    ),
    (
        {"convention": "chainer-nag"},
        "Δ_(t+1) = μ·Δ_t - ε·(1 + μ + μ²)·d_t + ε·(μ + μ²)·d_(t-1)",
        "by ε·(1 + μ + μ²) in its step and by ε/(1 - μ) in all",
    ),
]


@pytest.mark.parametrize(("settings", "equation", "words"), RECOVERED)
def test_the_step_is_written_in_formulas(settings, equation, words):
    found = measured(sgdm.SGD, momentum=0.9, **settings)
    assert found.equations == (equation, "θ_(t+1) = θ_t + Δ_(t+1)")
    assert words in found.sentences[0]
    assert found.sentences[0].endswith("what it does fades by μ a step.")


def test_a_number_that_no_formula_is_stays_a_number():
    found = measured(sgdm.SGD, momentum=0.9, convention="qhm", nu=0.7)
    assert found.equations[0] == "Δ_(t+1) = μ·Δ_t - 0.0322787·d_t + 0.0217377·d_(t-1)"


OUTSIDE = "A changed lr acts on the whole history at once: it is outside the buffer."
INSIDE = "A changed lr acts on new gradients only: it is inside the buffer."
SENTENCES = [
    ("torch", {}, OUTSIDE),
    ("caffe", {}, INSIDE),
    ("torch", {}, "A changed momentum multiplies the step in which it is set once."),
    (
        "torch",
        {"nesterov": True},
        "A changed momentum multiplies the step in which it is set twice, as with a look-ahead.",
    ),
    ("darknet", {}, "A changed momentum acts from the next step on."),
    ("torch", {}, "The first gradient does what later ones do."),
    ("torch", {}, "It does not look ahead."),
    ("torch", {"nesterov": True}, "It looks ahead by one step: Nesterov's method."),
    ("nag", {}, "It looks ahead by one step: Nesterov's method."),
    ("chainer-nag", {}, "It looks ahead by two steps."),
    (
        "qhm",
        {"nu": 0.7},
        "Of its step 0.0249 is the gradient's own, and 0.2963 times that comes through the buffer.",
    ),
    (
        "torch",
        {},
        "Dampening multiplies what a gradient does by 1 - τ, but not what the first does.",
    ),
    ("mlx", {}, "Dampening multiplies what a gradient does by 1 - τ, the first one's too."),
    ("torch", {"dampening": 0.5}, "The first gradient does 2 times what a later one does."),
    (
        "torch",
        {"dampening": 0.5},
        "A gradient moves the parameter by ε·(1 - τ) in its step and by ε·(1 - τ)/(1 - μ) in all; "
        "what it does fades by μ a step.",
    ),
    (
        "torch",
        {},
        "Weight decay takes ε·λ of the parameter in its first step, and builds up in the buffer.",
    ),
    (
        "ema",
        {},
        "Weight decay takes λ times what a gradient takes of the parameter in its first step, and "
        "builds up in the buffer.",
    ),
    (
        "timm",
        {},
        "Weight decay takes ε·λ of the parameter in its first step, by the same factor in every "
        "step: it is decoupled.",
    ),
    (
        "composer",
        {},
        "Weight decay takes λ of the parameter in its first step, by the same factor in every "
        "step: it is decoupled.",
    ),
]


@pytest.mark.parametrize(("convention", "settings", "sentence"), SENTENCES)
def test_one_thing_at_a_time(convention, settings, sentence):
    found = measured(sgdm.SGD, momentum=0.9, convention=convention, **settings)
    assert sentence in found.sentences


class Planted(torch.optim.SGD):
    """Something is done to the gradients before the step."""

    def step(self, closure=None):
        assert closure is not None
        closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = self.bend(p.grad, p)
        super().step()

    def bend(self, g, p):
        return g


class Corrected(Planted):
    """The buffer is shrunk with lr, which is not in it."""

    def bend(self, g, p):
        lr = self.param_groups[0]["lr"]
        if "momentum_buffer" in self.state[p] and lr:
            self.state[p]["momentum_buffer"].mul_(lr / self.state[p]["last"])
        self.state[p]["last"] = lr
        return g


class Random(Planted):
    def bend(self, g, p):
        return g + torch.rand_like(g)


class Deaf(Planted):
    def bend(self, g, p):
        return torch.zeros_like(g)


class Clipped(Planted):
    def bend(self, g, p):
        return g / max(1.0, g.norm().item())


class Sign(Planted):
    def bend(self, g, p):
        return g.sign()


class Tanh(Planted):
    def bend(self, g, p):
        return 0.1 * g.tanh() + g


class Clamped(Planted):
    def bend(self, g, p):
        return g.clamp(-100, 100)


class Cautious(Planted):
    """Only what points along the buffer is let through."""

    def bend(self, g, p):
        b = self.state[p].get("momentum_buffer")
        return g if b is None else g * (g * b > 0)


class WarmingUp(Planted):
    def bend(self, g, p):
        steps = self.state[p]["steps"] = self.state[p].get("steps", 0) + 1
        return g * min(1.0, steps / 5)


class Lars(Planted):
    """Its norms count where there is decay, as in timm."""

    def bend(self, g, p):
        decay = self.param_groups[0]["weight_decay"]
        return g * (p.norm() / (g.norm() + decay * p.norm())).item() if decay else g


class Trust(Planted):
    def bend(self, g, p):
        return g * self.state[p].setdefault("size", p.detach().abs().clone())


class Remembering(Planted):
    """A second buffer, beside the first: it fades by two factors."""

    def bend(self, g, p):
        slow = self.state[p].setdefault("slow", torch.zeros_like(p))
        return g + slow.mul_(0.5).add_(g)


class Breaking(Planted):
    def bend(self, g, p):
        raise ArithmeticError("no")


STRANGERS = [
    (Random, "the same run twice goes two ways: its steps are random"),
    (Deaf, "gradients do not move it"),
    (
        torch.optim.Muon,
        "an element's step depends on the gradients of the others: there is a norm in it, as in "
        "LARS, LAMB, Muon or clipping",
    ),
    (
        Clipped,
        "an element's step depends on the gradients of the others: there is a norm in it, as in "
        "LARS, LAMB, Muon or clipping",
    ),
    (Sign, "its first step is as long for every gradient: a sign method, or Adam and its kin"),
    (
        Tanh,
        "a thousand times the gradients do not move it a thousand times as far: it clips, or is "
        "not linear",
    ),
    (
        Clamped,
        "a thousand times the gradients do not move it a thousand times as far: it clips, or is "
        "not linear",
    ),
    (Cautious, "two gradients together do not do what each does: it is not linear"),
    (
        WarmingUp,
        "a gradient does something else in a later step: its steps depend on their number",
    ),
    (
        Lars,
        "with weight decay an element's step depends on the others: there is a norm in it, as in "
        "LARS",
    ),
    (
        Trust,
        "gradients move it otherwise where the parameter is larger: a trust ratio, or decay",
    ),
    (
        Remembering,
        "what a gradient does does not fade by one factor, as one buffer makes it (2.0e-01 off)",
    ),
    (Breaking, "it does not step: ArithmeticError: no"),
    (torch.optim.Adam, "a thousand times the gradients move it as far: it is adaptive"),
    (torch.optim.RMSprop, "a thousand times the gradients move it as far: it is adaptive"),
    (
        torch.optim.Adagrad,
        "its first step is as long for every gradient: a sign method, or Adam and its kin",
    ),
]


@pytest.mark.parametrize(("factory", "why"), STRANGERS, ids=lambda x: getattr(x, "__name__", ""))
def test_who_is_not_of_the_family(factory, why):
    settings = {"momentum": 0.9} if issubclass(factory, Planted) else {}
    found = measured(factory, **settings)
    assert found.stranger == why
    assert found.impulse is None
    assert not found.equations


def test_the_clean_one_beside_them_is_of_the_family():
    assert not measured(Planted, momentum=0.9).stranger


def test_a_change_of_lr_that_counts_twice_is_told():
    found = measured(Corrected, momentum=0.9)
    assert (
        "After a drop of lr to 0.25 of what it was, the history moves 0.0625 times as far: neither "
        "1, as with lr inside the buffer, nor that, as outside."
    ) in found.sentences


def test_a_decay_that_does_nothing_is_told():
    class Ignoring(torch.optim.SGD):
        def __init__(self, params, lr=0.1, weight_decay=0.0):
            super().__init__(params, lr)

    assert "Weight decay does nothing." in measured(Ignoring).sentences


def test_a_dampening_that_does_nothing_is_told():
    class Ignoring(torch.optim.SGD):
        def __init__(self, params, lr=0.1, momentum=0.9, dampening=0.0):
            super().__init__(params, lr, momentum)

    assert "Dampening does nothing." in measured(Ignoring).sentences


def test_no_momentum_is_told():
    class Plain(torch.optim.Optimizer):
        def __init__(self, params, lr=0.1):
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self, closure=None) -> Any:
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad, alpha=self.param_groups[0]["lr"])

    assert "There is no momentum." in measured(Plain).sentences
