"""Which cases a subject fails, here and by the scripts that are given out."""

import traceback

import pytest
import torch

import sgdm
from clean_sgd import CleanSGD
from sgdm.audit.case import run_case, script
from sgdm.audit.cases import CASES as BATTERY
from sgdm.audit.cases import calls, groups, notes, overflow, state
from sgdm.audit.isolated import isolated
from sgdm.audit.subject import Subject
from unusual_sgd import (
    CentralizesGradients,
    ClipsTheNorm,
    RoundsAtRandom,
    StepsEverySecondTime,
    WarmsUpFromNothing,
)

CASES = (*state.CASES, *overflow.CASES, *groups.CASES, *calls.CASES, *notes.CASES)
CASE = {case.name: case for case in BATTERY}

# Notes: torch's load_state_dict does not copy, and a buffer of the parameter's dtype stalls.
OF_CLEAN = ("loaded-state-is-a-copy", "sixteen-bits-keep-moving")

SETTINGS = (
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "weight_decay": 0.01},
)
UNUSUAL = (
    CentralizesGradients,
    ClipsTheNorm,
    RoundsAtRandom,
    StepsEverySecondTime,
    WarmsUpFromNothing,
)
EXTREME_LRS = (0.0, 1e-10, 30.0, 1e4)
CONVENTIONS = ("torch", "keras", "caffe", "nag", "timm", "mlx")


def subject(factory, **settings):
    return Subject(factory, settings, factory.__module__, factory.__qualname__)


CLEAN = [
    *(subject(CleanSGD, lr=0.1, **settings) for settings in SETTINGS),
    *(
        subject(torch.optim.SGD, lr=0.1, foreach=foreach, **settings)
        for foreach in (False, True)
        for settings in SETTINGS
    ),
    subject(torch.optim.Adam, lr=0.01),
    subject(torch.optim.Adam, lr=0.01, foreach=True),
    subject(torch.optim.RMSprop, lr=0.01, momentum=0.9),
    *(
        subject(sgdm.SGD, lr=0.1, engine=engine, **settings)
        for engine in ("eager", "native")
        for settings in SETTINGS
    ),
    *(
        subject(sgdm.SGD, lr=0.1, momentum=0.9, engine=engine, convention=convention)
        for engine in ("eager", "native")
        for convention in CONVENTIONS
    ),
    *(subject(kind, lr=0.1, momentum=0.9) for kind in UNUSUAL),
    *(subject(CleanSGD, lr=lr, momentum=0.9) for lr in EXTREME_LRS),
    *(subject(sgdm.SGD, lr=lr, momentum=0.9, weight_decay_mode="lr") for lr in EXTREME_LRS),
]


def titles(subjects):
    return [each.title() for each in subjects]


def failures(examined, cases=CASES):
    """The results of the cases that a subject fails, by their names."""
    results = {case.name: run_case(case, examined) for case in cases}
    return {name: seen for name, seen in results.items() if seen.outcome == "failed"}


def texts(failed):
    """What was seen in each."""
    return {name: seen.text for name, seen in failed.items()}


def accusations(examined, cases=CASES):
    """What is wrong with a subject, by the names of the cases."""
    return texts(failures(examined, cases))


def planted_failures(examined):
    """What a subject fails, and CleanSGD does not."""
    found = failures(examined)
    return {name: seen for name, seen in found.items() if name not in OF_CLEAN}


def caught_alone(planted, find, *, shown="{}"):
    """The test that each planted defect is caught by its case alone, and shown by its script.

    Args:
        planted: A kind of optimizer, the case that is to catch it, and what that says.
        find: What is wrong with a subject.
        shown: How the script's last words have what the case says.
    """

    @pytest.mark.parametrize(("kind", "name", "text"), planted)
    def test(kind, name, text):
        examined = subject(kind, lr=0.1, momentum=0.9)
        found = find(examined)
        assert texts(found) == {name: text}
        assert shown.format(text) in script_failure(name, examined, found)

    return test


def script_failure(name, examined, failed):
    """What the script of a failed case ends with.

    Args:
        name: Of the case.
        examined: The subject.
        failed: The case's result among others.
    """
    program = script(CASE[name], examined, failed[name].setting)

    @isolated
    def run():
        exec(compile(program, name, "exec"), {"__name__": "__main__"})  # noqa: S102 - our own

    try:
        run()
    except Exception:  # noqa: BLE001 - whatever it ends with
        return traceback.format_exc()
    return ""
