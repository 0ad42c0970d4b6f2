"""The battery: one file a theme, one function a defect."""

from sgdm.audit.cases import (
    calls,
    decay,
    elements,
    first_step,
    gradients,
    groups,
    hyperparameters,
    notes,
    overflow,
    state,
    stepping,
)

__all__ = ["CASES"]

CASES = (
    *stepping.CASES,
    *elements.CASES,
    *gradients.CASES,
    *hyperparameters.CASES,
    *decay.CASES,
    *first_step.CASES,
    *state.CASES,
    *overflow.CASES,
    *groups.CASES,
    *calls.CASES,
    *notes.CASES,
)
