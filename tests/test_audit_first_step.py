"""Cases of the first step: each catches what it is for, and nothing else does."""

import torch

from clean_sgd import CleanSGD
from examining import accusations, longest_script, script_failure, subject
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
ALIKE = "three equal parameters became [0.7599999904632568, 0.8549999594688416, 0.8549999594688416]"


def test_weights_in_the_buffer_are_caught():
    examined = subject(StartsFromTheWeights, lr=0.1, momentum=0.9)
    name = "the-buffer-starts-from-nothing"
    assert accusations(examined, STEP_CASES) == {name: WEIGHTS}
    assert WEIGHTS in script_failure(name, examined)


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
    assert accusations(examined, STEP_CASES) == {
        name: ALIKE,
        "a-late-first-step-is-a-first-step": "the first step takes 1 to 0.9, a late one to 0.95",
    }
    assert ALIKE in script_failure(name, examined)


def test_nobody_is_accused_falsely():
    assert false_accusations(CASES) == {}


def test_every_script_is_short():
    assert longest_script(CASES) <= 15
