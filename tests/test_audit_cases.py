"""What holds for every case of the battery."""

import pytest
import torch

from examining import subject
from sgdm.audit.case import script
from sgdm.audit.cases import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_script_is_short(case):
    examined = subject(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)
    for setting in case.settings:
        assert len(script(case, examined, setting).strip().splitlines()) <= 15


def test_every_case_has_a_name_of_its_own():
    assert len({case.name for case in CASES}) == len(CASES)
