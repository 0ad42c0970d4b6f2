"""Cases of decay: each catches what it is for, and nothing else does."""

import pytest
import torch

import sgdm
from clean_sgd import CleanSGD
from examining import accusations, caught_alone, subject
from sgdm.audit.cases.decay import CASES
from stepping import false_accusations, step_failures


class DecaysOncePerDtype(CleanSGD):
    """As timm's SGDW did."""

    def direction(self, p, g, group):
        kinds = {q.dtype for each in self.param_groups for q in each["params"]}
        return super().direction(
            p, g, {**group, "weight_decay": len(kinds) * group["weight_decay"]}
        )


class DecaysByTheFirstGroup(CleanSGD):
    def direction(self, p, g, group):
        decay = self.param_groups[0]["weight_decay"]
        return super().direction(p, g, {**group, "weight_decay": decay})


class SubtractsAConstant(CleanSGD):
    """As SGDW of torch_optimizer does."""

    def direction(self, p, g, group):
        return super().direction(p, g, {**group, "weight_decay": 0.0})

    def move(self, p, d, group):
        super().move(p, d + group["weight_decay"], group)


class TurnsDecayRound(CleanSGD):
    """With maximize."""

    def direction(self, p, g, group):
        d = super().direction(p, g, {**group, "maximize": False})
        return -d if group["maximize"] else d


class DecaysWithoutLr(CleanSGD):
    def direction(self, p, g, group):
        return super().direction(p, g, {**group, "weight_decay": 0.0})

    def move(self, p, d, group):
        super().move(p.mul_(1 - group["weight_decay"]), d, group)


class DecaysTwice(CleanSGD):
    """As MXNet's NAG did."""

    def direction(self, p, g, group):
        return super().direction(p, g, {**group, "weight_decay": 2 * group["weight_decay"]})


PLANTED = [
    (
        DecaysOncePerDtype,
        "decay-is-applied-once",
        "1 decays to 0.9899 alone, and to 0.9799 in company",
    ),
    (
        DecaysByTheFirstGroup,
        "decay-is-of-its-own-group",
        "1 becomes 0.9899 alone, and 0.9999 between groups with weight_decay=0.0",
    ),
    (
        SubtractsAConstant,
        "decay-leaves-zero-alone",
        "an element 0 with gradient 0 decays to -0.01",
    ),
    (TurnsDecayRound, "decay-shrinks", "1 decays to 1.01"),
    (DecaysWithoutLr, "lr-0-stops-decay", "with lr=0, 1 decays to 0.9"),
    (
        DecaysTwice,
        "decay-is-not-doubled",
        "weight_decay=0.1 moves twice as far as a gradient of 0.1*p",
    ),
]


test_caught_by_its_case_alone_and_shown_by_its_script = caught_alone(PLANTED, step_failures)


def test_every_planted_defect_has_its_case():
    assert {name for _, name, _ in PLANTED} == {case.name for case in CASES}


def test_what_may_be_meant_is_a_note():
    assert {case.name for case in CASES if case.note} == {
        "lr-0-stops-decay",
        "decay-is-not-doubled",
    }


@pytest.mark.parametrize("mode", ["coupled", "lr", "lr/lr0", "lr^2/lr0", "absolute"])
def test_every_mode_of_decay_is_known(mode):
    examined = subject(sgdm.SGD, lr=0.1, momentum=0.9, weight_decay_mode=mode)
    assert accusations(examined, CASES) == {}


def test_decoupled_decay_of_adamw_is_known():
    assert accusations(subject(torch.optim.AdamW, lr=0.1), CASES) == {}


def test_nobody_is_accused_falsely():
    assert false_accusations(CASES) == {}
