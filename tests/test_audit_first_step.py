"""Cases of the first step: each catches what it is for, and nothing else does."""

import torch

from clean_sgd import CleanSGD
from examining import accusations, failures, script_failure, subject, texts
from sgdm.audit.cases.first_step import CASES
from stepping import STEP_CASES, false_accusations


class StartsFromTheWeights(CleanSGD):
    """As SGDW of pytorch_optimizer did."""

    def buffer(self, p, d, group):
        if p not in self.state:
            self.state[p]["momentum_buffer"] = p.clone()
        return super().buffer(p, d, group)


class StartsFromTheFirstOnly(CleanSGD):
    """The others' buffers start from zero, and are dampened."""

    def buffer(self, p, d, group):
        if p is not group["params"][0]:
            self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        return super().buffer(p, d, group)


WEIGHTS = "two zero gradients take 1 to 0.829"
ALIKE = "3 equal parameters became 0.76 to 0.855"


def test_weights_in_the_buffer_are_caught():
    examined = subject(StartsFromTheWeights, lr=0.1, momentum=0.9)
    name = "the-buffer-starts-from-nothing"
    found = failures(examined, STEP_CASES)
    assert texts(found) == {name: WEIGHTS}
    assert WEIGHTS in script_failure(name, examined, found)


def test_garbage_in_the_buffer_is_caught():
    class StartsFromGarbage(CleanSGD):
        def buffer(self, p, d, group):
            self.state[p].setdefault("momentum_buffer", torch.full_like(p, 7.0))
            return super().buffer(p, d, group)

    found = accusations(subject(StartsFromGarbage, lr=0.1), CASES)
    assert found == {
        "the-buffer-starts-from-nothing": "two zero gradients take 1 to -0.197",
    }


def test_parameters_that_start_differently_are_caught():
    """One that is not the first is never first when it comes late, either."""
    examined = subject(StartsFromTheFirstOnly, lr=0.1, momentum=0.9)
    name = "first-steps-are-alike"
    found = failures(examined, STEP_CASES)
    assert texts(found) == {
        name: ALIKE,
        "a-late-first-step-is-a-first-step": "the first step takes 1 to 0.9, a late one to 0.95",
    }
    assert ALIKE in script_failure(name, examined, found)


def test_the_end_of_a_long_list_that_does_not_step_is_caught():
    class StepsAHundred(CleanSGD):
        def update(self, p, g, group):
            if any(q is p for q in group["params"][:100]):
                super().update(p, g, group)

    found = accusations(subject(StepsAHundred, lr=0.1, momentum=0.9), STEP_CASES)
    assert found == {"first-steps-are-alike": "400 equal parameters became 0.71 to 1"}


def test_nobody_is_accused_falsely():
    assert false_accusations(CASES) == {}
