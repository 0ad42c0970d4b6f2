"""Cases of hyperparameters: each catches what it is for, and nothing else does."""

import torch

from clean_sgd import CleanSGD
from examining import accusations, caught_alone, subject
from sgdm.audit.cases.hyperparameters import CASES
from stepping import STEP_CASES, false_accusations, step_failures


class IgnoresDampening(CleanSGD):
    def buffer(self, p, d, group):
        return super().buffer(p, d, {**group, "dampening": 0.0})


class IgnoresNesterov(CleanSGD):
    """As bitsandbytes did."""

    def update(self, p, g, group):
        super().update(p, g, {**group, "nesterov": False})


class IgnoresMaximize(CleanSGD):
    def direction(self, p, g, group):
        return super().direction(p, g, {**group, "maximize": False})


class SwallowsKeywords(CleanSGD):
    def __init__(
        self,
        params,
        lr=1e-3,
        momentum=0.0,
        dampening=0.0,
        weight_decay=0.0,
        nesterov=False,
        maximize=False,
        **_,
    ):
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, maximize)


class ComparesWithZero(CleanSGD):
    """As torch does; a NaN is not less."""

    def __init__(self, params, lr=1e-3, *args, **more):
        if lr < 0:
            raise ValueError(f"Invalid lr: {lr}")
        super().__init__(params, lr if torch.as_tensor(lr).isfinite() else 0.1, *args, **more)


class TakesNegativeNumbers(CleanSGD):
    def __init__(self, params, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, **more):
        super().__init__(params, abs(lr), abs(momentum), dampening, abs(weight_decay), **more)


class KeepsTheFirstLr(CleanSGD):
    def move(self, p, d, group):
        self.lr = getattr(self, "lr", group["lr"])
        super().move(p, d, {"lr": self.lr})


class ReadsATensorOnce(CleanSGD):
    def move(self, p, d, group):
        lr = group["lr"]
        self.lr = getattr(self, "lr", float(lr))
        super().move(p, d, {"lr": self.lr if torch.is_tensor(lr) else lr})


class CorrectsMomentum(CleanSGD):
    """As ports of Detectron did, though the buffer holds no lr."""

    def buffer(self, p, d, group):
        state, lr = self.state[p], group["lr"]
        if state and state["lr"] != lr:
            state["momentum_buffer"] *= lr / state["lr"]
        state["lr"] = lr
        return super().buffer(p, d, group)


class KeepsTheFirstMomentum(CleanSGD):
    def update(self, p, g, group):
        self.momentum = getattr(self, "momentum", group["momentum"])
        super().update(p, g, {**group, "momentum": self.momentum})


PLANTED = [
    (
        IgnoresDampening,
        "keywords-have-an-effect",
        "dampening 0.0 and 0.5 make the same four steps",
    ),
    (
        IgnoresNesterov,
        "nesterov-has-an-effect",
        "nesterov=True makes the steps of plain momentum",
    ),
    (
        IgnoresMaximize,
        "maximize-has-an-effect",
        "maximize=True makes other steps than the gradient turned round",
    ),
    (SwallowsKeywords, "unknown-keywords-are-refused", "no_such_keyword=0.9 is accepted"),
    (ComparesWithZero, "nan-and-infinity-are-refused", "lr=nan is accepted"),
    (TakesNegativeNumbers, "negative-numbers-are-refused", "lr=-0.5 is accepted"),
    (
        KeepsTheFirstLr,
        "a-change-of-lr-is-heeded",
        "after a step, 0.01 in place of 0.1 as lr changes nothing",
    ),
    (ReadsATensorOnce, "a-tensor-lr-is-heeded", "a tensor lr, changed in place, is not heeded"),
    (
        CorrectsMomentum,
        "a-change-of-lr-acts-once",
        "after lr/10 momentum moves by 0.00162, before by 0.162",
    ),
    (
        KeepsTheFirstMomentum,
        "momentum-may-change",
        "0.9 moves 1.39044, (0.9, 0.9, 0.0, 0.0, 0.9, 0.9) 1.39044 far",
    ),
]


test_caught_by_its_case_alone_and_shown_by_its_script = caught_alone(PLANTED, step_failures)


def test_every_planted_defect_has_its_case():
    assert {name for _, name, _ in PLANTED} == {case.name for case in CASES}


def test_decay_that_needs_momentum_is_caught():
    """mlx issue 440."""

    class DecaysTheBufferOnly(CleanSGD):
        def direction(self, p, g, group):
            decay = group["weight_decay"] if group["momentum"] else 0.0
            return super().direction(p, g, {**group, "weight_decay": decay})

    found = accusations(subject(DecaysTheBufferOnly, lr=0.1, momentum=0.9), STEP_CASES)
    assert found == {"keywords-have-an-effect": "weight_decay 0.0 and 0.5 make the same four steps"}


def test_momentum_that_is_ignored_is_caught():
    class IgnoresMomentum(CleanSGD):
        def update(self, p, g, group):
            super().update(p, g, {**group, "momentum": 0.5})

    found = accusations(subject(IgnoresMomentum, lr=0.1), CASES[:1])
    assert found == {"keywords-have-an-effect": "momentum 0.5 and 0.9 make the same four steps"}


def test_momentum_that_has_no_buffer_later_is_caught():
    """Found so in torch.optim.RMSprop."""
    found = accusations(subject(torch.optim.RMSprop, lr=0.1), CASES)
    assert found["momentum-may-change"] == "KeyError: 'momentum_buffer'"


def test_nobody_is_accused_falsely():
    assert false_accusations(CASES) == {}
