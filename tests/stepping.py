"""The cases about steps: of elements, gradients, hyperparameters, decay and the first step."""

from functools import partial

import torch

from examining import CLEAN, accusations, failures
from sgdm.audit.cases import decay, elements, first_step, gradients, hyperparameters

STEP_CASES = (
    *elements.CASES,
    *gradients.CASES,
    *hyperparameters.CASES,
    *decay.CASES,
    *first_step.CASES,
)
step_failures = partial(failures, cases=STEP_CASES)


def known_defects(examined):
    """What torch's own optimizers are rightly accused of."""
    found = {}
    if examined.factory is torch.optim.SGD:
        found["nan-and-infinity-are-refused"] = "lr=nan is accepted"
        decays = "weight_decay" in examined.settings  # then foreach makes a new gradient first
        if examined.settings.get("foreach") and not decays:
            found["the-gradient-is-kept"] = "p.grad[0, 0] was -1.12584, and is -2.1391"
    if examined.factory in (torch.optim.Adam, torch.optim.RMSprop):
        found["nan-and-infinity-are-refused"] = "lr=inf is accepted"
    if examined.factory is torch.optim.RMSprop:
        found["momentum-may-change"] = "KeyError: 'momentum_buffer'"
    return found


def false_accusations(cases):
    """What a clean subject is accused of beyond that, and what it is not though it should be."""
    names = {case.name for case in cases}
    wrong = {}
    for examined in CLEAN:
        known = {name: text for name, text in known_defects(examined).items() if name in names}
        found = accusations(examined, cases)
        if found != known:
            wrong[examined.title()] = found
    return wrong
