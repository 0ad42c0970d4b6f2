"""Cases of saving, loading and copying: each catches what it is for, and nothing else does."""

import pytest
import torch

from clean_sgd import CleanSGD
from examining import (
    CASE,
    CLEAN,
    accusations,
    failures,
    planted_failures,
    script_failure,
    subject,
    titles,
)
from planted_sgd import (
    CannotBePickled,
    CopiesState,
    EmptiesTheDict,
    KeepsItsSettings,
    LosesState,
    LosesStateWhenCopied,
    LosesStateWhenPickled,
    NumbersStates,
    SavesAnObject,
    SharesStateWhenCopied,
    WideBuffer,
)
from sgdm.audit.cases.state import CASES

MOMENTUM = {"lr": 0.1, "momentum": 0.9}
PLANTED = [
    (
        LosesState,
        "resumed-run-goes-on",
        "resumed after 1 steps, it ends at -8.66262341, not -9.13215637",
    ),
    (NumbersStates, "state-finds-its-parameter", "loaded, the state belongs to other parameters"),
    (
        SavesAnObject,
        "state-dict-can-be-saved",
        "torch.load refuses the saved state dict for ['planted_sgd.Schedule']",
    ),
    (
        KeepsItsSettings,
        "loaded-settings-are-used",
        "made with {'lr': 0.37}, it steps by them, not by what was loaded",
    ),
    (EmptiesTheDict, "loading-leaves-the-dict", "loading turned {'state': {0: "),
    (
        LosesStateWhenCopied,
        "deepcopy-goes-on",
        "the copy ends at 0.338999957, the original at 0.0950999856",
    ),
    (
        SharesStateWhenCopied,
        "deepcopy-goes-on",
        "the copy ends at -0.302213103, the original at -0.102459006",
    ),
    (
        LosesStateWhenPickled,
        "pickle-goes-on",
        "the copy ends at 0.338999957, the original at 0.0950999856",
    ),
    (CannotBePickled, "pickle-goes-on", "AttributeError: Can't pickle local object "),
    (
        WideBuffer,
        "state-keeps-its-dtype",
        "momentum_buffer of a parameter in torch.bfloat16 was torch.float32; loaded, it is "
        "torch.bfloat16",
    ),
]


@pytest.mark.parametrize(("kind", "name", "text"), PLANTED)
def test_caught_by_its_case_alone_and_shown_by_its_script(kind, name, text):
    examined = subject(kind, **MOMENTUM)
    found = planted_failures(examined)
    assert list(found) == [name]
    assert found[name].text.startswith(text)
    assert text in script_failure(name, examined, found)


@pytest.mark.parametrize("clean", CLEAN, ids=titles(CLEAN))
def test_nobody_is_accused_falsely(clean):
    """But torch's load_state_dict shares the buffers, and nearly everybody inherits it."""
    shares = {"loaded-state-is-a-copy": "after b.load_state_dict(a.state_dict()), b steps for a"}
    assert accusations(clean, CASES) in ({}, shares)


def test_state_that_is_copied_is_not_noted():
    case = CASE["loaded-state-is-a-copy"]
    shares = subject(CleanSGD, **MOMENTUM)
    found = failures(shares, [case])
    text = "AssertionError: after b.load_state_dict(a.state_dict()), b steps for a"
    assert text in script_failure(case.name, shares, found)
    assert accusations(subject(CopiesState, **MOMENTUM), [case]) == {}
    assert case.note


def test_torch_casts_what_it_loads_for_its_own_optimizers_as_well():
    """Reported by torch's own: NAdam's and ASGD's scalars are float32, and loaded as bfloat16."""
    for kind, key in ((torch.optim.NAdam, "mu_product"), (torch.optim.ASGD, "eta")):
        found = accusations(subject(kind, lr=0.01), [CASE["state-keeps-its-dtype"]])
        assert found["state-keeps-its-dtype"] == (
            f"{key} of a parameter in torch.bfloat16 was torch.float32; loaded, it is "
            "torch.bfloat16"
        )
