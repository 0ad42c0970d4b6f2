"""Rules by name."""

import pytest

from sgdm.errors import InvalidValueError
from sgdm.rule_name import RuleName, check_nu_is_read, parse_rule, parse_rules


def test_a_name_with_and_without_nesterov():
    assert parse_rule("torch") == RuleName("torch", nesterov=False)
    assert parse_rule("torch:nesterov") == RuleName("torch", nesterov=True)


@pytest.mark.parametrize("name", ["torch:", "torch:fast", "torch:nesterov:"])
def test_another_option_is_refused(name):
    with pytest.raises(InvalidValueError, match="conventions must be a name, or a name with"):
        parse_rule(name)


def test_a_list_of_names():
    assert parse_rules("torch") == ("torch",)
    assert parse_rules(" nag , torch:nesterov,") == ("nag", "torch:nesterov")


@pytest.mark.parametrize("text", ["", ",", "torch,nag,torch"])
def test_none_and_twice_are_refused(text):
    with pytest.raises(InvalidValueError, match="conventions must be one or several, different"):
        parse_rules(text)


def test_nu_is_for_the_rules_that_have_one():
    assert parse_rule("qhm").own_nu(0.7) == 0.7
    assert parse_rule("torch").own_nu(0.7) is None
    check_nu_is_read(["torch", "qhm"], 0.7)
    check_nu_is_read(["torch"], None)
    with pytest.raises(InvalidValueError, match="nu must be None for torch, nag, which have no ν"):
        check_nu_is_read(["torch", "nag"], 0.7)
