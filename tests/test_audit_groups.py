"""Cases of groups: each catches what it is for, and nothing else does."""

import pytest

from clean_sgd import CleanSGD
from examining import (
    CASE,
    CLEAN,
    accusations,
    caught_alone,
    planted_failures,
    script_failure,
    subject,
    texts,
    titles,
)
from planted_sgd import (
    DecaysOncePerParameter,
    ForgetsItsDefaults,
    ReadsTheFirstGroup,
    RefusesASecondDtype,
    SkipsWhatIsSmaller,
    StepsOneDtype,
)
from sgdm.audit.cases.groups import CASES

PLANTED = [
    (
        ReadsTheFirstGroup,
        "groups-keep-their-settings",
        "a group's lr=0.01 is not what it is stepped by",
    ),
    (
        ForgetsItsDefaults,
        "later-group-starts-afresh",
        "added later, a group ends at 0.999049008, alone at 0.904900014",
    ),
    (
        StepsOneDtype,
        "kinds-share-a-group",
        "in one group with others, {'dtype': torch.float64} is stepped otherwise",
    ),
    (
        DecaysOncePerParameter,
        "grouping-does-not-matter",
        "together, parameters are stepped otherwise than alone",
    ),
]


test_caught_by_its_case_alone_and_shown_by_its_script = caught_alone(
    PLANTED, planted_failures, shown="AssertionError: {}"
)


def test_order_is_caught():
    text = "in another order, parameters are stepped otherwise"
    examined = subject(SkipsWhatIsSmaller, lr=0.1)
    found = planted_failures(examined)
    assert texts(found) == {"order-does-not-matter": text}
    assert f"AssertionError: {text}" in script_failure("order-does-not-matter", examined, found)


def test_a_group_without_momentum_is_caught_beside_one_with():
    class ReadsTheFirstMomentum(CleanSGD):
        def update(self, p, g, group):
            super().update(p, g, {**group, "momentum": self.param_groups[0]["momentum"]})

    case = CASE["groups-keep-their-settings"]
    found = accusations(subject(ReadsTheFirstMomentum, lr=0.1), [case])
    assert found == {case.name: "a group's momentum=0.5 is not what it is stepped by"}


@pytest.mark.parametrize(("name", "text"), [("nesterov", "True"), ("dampening", "0.5")])
def test_a_group_that_is_stepped_by_an_option_of_the_first_is_caught(name, text):
    class ReadsTheFirstOption(CleanSGD):
        def update(self, p, g, group):
            super().update(p, g, {**group, name: self.param_groups[0][name]})

    case = CASE["groups-keep-their-settings"]
    found = accusations(subject(ReadsTheFirstOption, lr=0.1, momentum=0.9), [case])
    assert found == {case.name: f"a group's {name}={text} is not what it is stepped by"}


def test_what_is_refused_is_not_accused():
    assert planted_failures(subject(RefusesASecondDtype, lr=0.1)) == {}


@pytest.mark.parametrize("clean", CLEAN, ids=titles(CLEAN))
def test_nobody_is_accused_falsely(clean):
    assert accusations(clean, CASES) == {}
