"""Cases of what is worth knowing: each notes what it is for, and nothing else does."""

import pytest
import torch

import sgdm
from clean_sgd import CleanSGD
from examining import (
    CASE,
    CLEAN,
    SETTINGS,
    accusations,
    failures,
    planted_failures,
    script_failure,
    subject,
    texts,
    titles,
)
from planted_sgd import CopiesTheModel, WideBuffer
from sgdm.audit.cases.notes import CASES

MEMORY = CASE["step-needs-no-second-model"]
STALLS = CASE["sixteen-bits-keep-moving"]


def test_a_copy_of_the_model_is_noted():
    text = "a step takes 1.0 times the parameters' memory, and gives it back"
    examined = subject(CopiesTheModel, lr=0.1)
    found = planted_failures(examined)
    assert texts(found) == {MEMORY.name: text}
    assert f"AssertionError: {text}" in script_failure(MEMORY.name, examined, found)


def test_a_bfloat16_buffer_is_noted():
    text = "with torch.bfloat16 the buffer stalls at 88%"
    examined = subject(CleanSGD, lr=0.1)
    found = failures(examined, CASES)
    assert texts(found) == {STALLS.name: text}
    assert f"AssertionError: {text}" in script_failure(STALLS.name, examined, found)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_float32_buffer_is_not(settings):
    assert accusations(subject(WideBuffer, lr=0.1, **settings), CASES) == {}
    wide = subject(sgdm.SGD, lr=0.1, buffer_dtype=torch.float32, **settings)
    assert accusations(wide, [STALLS]) == {}


@pytest.mark.parametrize(
    "clean",
    [each for each in CLEAN if not each.settings.get("foreach")],
    ids=titles(each for each in CLEAN if not each.settings.get("foreach")),
)
def test_one_parameter_after_the_other_needs_no_second_model(clean):
    assert accusations(clean, [MEMORY]) == {}


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_foreach_torch_takes_a_second_model(kind):
    foreach = subject(kind, lr=0.1, foreach=True, weight_decay=0.01)
    text = "a step takes 1.0 times the parameters' memory, and gives it back"
    assert accusations(foreach, [MEMORY]) == {MEMORY.name: text}


def test_a_stall_is_found_in_a_few_hundred_steps():
    class CountsSteps(CleanSGD):
        steps = 0

        def step(self, closure=None):
            CountsSteps.steps += 1
            return super().step(closure)

    assert list(accusations(subject(CountsSteps, lr=0.1), [STALLS])) == [STALLS.name]
    assert CountsSteps.steps <= 200


def test_they_are_notes():
    assert all(case.note for case in CASES)
