"""Cases of numbers that are none: each catches what it is for, and nothing else does."""

import pytest
import torch

from examining import (
    CLEAN,
    accusations,
    caught_alone,
    failures,
    planted_failures,
    script_failure,
    subject,
    texts,
    titles,
)
from planted_sgd import StepsAnyway, UninitialisedBuffer
from sgdm.audit.cases.overflow import CASES

MOMENTUM = {"lr": 0.1, "momentum": 0.9}
PLANTED = [
    (StepsAnyway, "overflow-changes-nothing", "an overflow turns 0.0489999317 into -inf"),
    (
        UninitialisedBuffer,
        "memory-is-initialised",
        "step 1 put uninitialised memory into 1 of 1 elements",
    ),
]


test_caught_by_its_case_alone_and_shown_by_its_script = caught_alone(
    PLANTED, planted_failures, shown="AssertionError: {}"
)


@pytest.mark.parametrize("clean", CLEAN, ids=titles(CLEAN))
def test_nobody_is_accused_falsely(clean):
    assert accusations(clean, CASES) == {}


def test_fused_torch_sgd_keeps_an_uninitialised_buffer():
    fused = subject(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True)
    text = "an overflow turns 0.0489999317 into nan"
    found = failures(fused, CASES)
    assert texts(found) == {"overflow-changes-nothing": text}
    assert f"AssertionError: {text}" in script_failure("overflow-changes-nothing", fused, found)


def test_the_deterministic_mode_is_put_back():
    accusations(subject(UninitialisedBuffer, **MOMENTUM), CASES)
    assert torch.get_deterministic_debug_mode() == 0
