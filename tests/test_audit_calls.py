"""Cases of how a step is called: each catches what it is for, and nothing else does."""

import pytest
import torch

from examining import (
    CASE,
    CLEAN,
    accusations,
    caught_alone,
    planted_failures,
    subject,
    titles,
)
from planted_sgd import (
    AlwaysSetsToNone,
    CallsTwice,
    ClosureWithoutGradients,
    FailsInAChild,
    Freezes,
    HangsInAChild,
    KeepsTheLoss,
    LeavesARest,
    NeedsGradMode,
    NeverSetsToNone,
    ReadsGradientsFirst,
    ReturnsAnotherLoss,
    StateRequiresGrad,
    WritesToData,
)
from sgdm.audit.cases.calls import CASES

STALE = (
    "a step does not raise the parameter's version: backward through a graph from before it "
    "gives wrong gradients without an error"
)
PLANTED = [
    (CallsTwice, "closure-is-called-once", "a step called its closure 2 times"),
    (
        ClosureWithoutGradients,
        "closure-is-called-once",
        "a step called its closure with gradients disabled",
    ),
    (
        KeepsTheLoss,
        "closure-loss-is-returned",
        "a step with a closure returns None, not its loss",
    ),
    (
        ReturnsAnotherLoss,
        "closure-loss-is-returned",
        "a step whose closure returns 7.5 returns 3.75",
    ),
    (
        ReadsGradientsFirst,
        "closure-gradient-is-used",
        "a step does not use the gradients that its closure set",
    ),
    (
        NeedsGradMode,
        "grad-mode-does-not-matter",
        "under no_grad it ends at 1, outside at 0.0489999317",
    ),
    (
        LeavesARest,
        "threads-do-not-matter",
        "with 2 threads 1 of 100003 elements are stepped otherwise than with 1",
    ),
    (FailsInAChild, "forked-child-steps", "a step in a forked child fails"),
    (HangsInAChild, "forked-child-steps", "a step in a forked child hangs"),
    (
        AlwaysSetsToNone,
        "zero-grad-sets-to-none",
        "zero_grad(set_to_none=False) left gradients whose sums are [None, None]",
    ),
    (NeverSetsToNone, "zero-grad-sets-to-none", "zero_grad() left a gradient"),
    (
        StateRequiresGrad,
        "parameter-stays-a-leaf",
        "the state's momentum_buffer requires a gradient",
    ),
    (WritesToData, "stale-graph-is-noticed", STALE),
]


test_caught_by_its_case_alone_and_shown_by_its_script = caught_alone(
    PLANTED, planted_failures, shown="AssertionError: {}"
)


def test_a_frozen_parameter_is_noticed():
    case = CASE["parameter-stays-a-leaf"]
    found = accusations(subject(Freezes, lr=0.1), [case])
    assert found == {case.name: "a step turns the parameter's requires_grad off"}


@pytest.mark.parametrize("clean", CLEAN, ids=titles(CLEAN))
def test_nobody_is_accused_falsely(clean):
    assert accusations(clean, CASES) == {}


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_fused_torch_does_not_raise_the_version(kind):
    """Backward through the old graph gives the gradient at the new values, silently."""
    fused = subject(kind, lr=0.1, fused=True)
    assert accusations(fused, CASES) == {"stale-graph-is-noticed": STALE}
    p = torch.nn.Parameter(torch.ones(1))
    loss = (p * p).sum()
    p.grad = torch.ones(1)
    fused.make([p]).step()
    (grad,) = torch.autograd.grad(loss, p)
    assert torch.equal(grad, 2 * p.detach())
    assert p.item() != 1


def test_the_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    accusations(subject(LeavesARest, lr=0.1), CASES)
    assert torch.get_num_threads() == before
