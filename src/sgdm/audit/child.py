"""The process in which a subject runs, so that one that crashes or hangs is a finding."""

import pickle
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from sgdm.audit.case import run_case
from sgdm.audit.cases import CASES
from sgdm.audit.named import subject_of
from sgdm.audit.observe import observe
from sgdm.audit.subject import Refused, Subject

__all__ = ["IDENTIFY", "Answer", "Order", "main"]

IDENTIFY = "identify"  # the job that is no case


class Order(NamedTuple):
    """What a child is to do.

    Attributes:
        path: Where modules are found.
        subject: Pickled: a `Subject`, or the arguments of `subject_of`.
        jobs: Names of cases, or IDENTIFY.
    """

    path: list[str]
    subject: bytes
    jobs: list[str]


class Answer(NamedTuple):
    """What a child says.

    Attributes:
        job: Which; "" when the subject has been made once.
        trying: The setting that it begins with, in place of a result.
        result: A `Result`, `Observations`, or what was refused as text.
    """

    job: str
    trying: Mapping[str, Any] | None = None
    result: Any = None


def main(descriptor: int) -> None:
    """Carry out the order that stands on standard input.

    Args:
        descriptor: Of the pipe that answers go to.
    """
    answers = Connection(descriptor, readable=False)
    order: Order = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own parent's
    sys.path[:] = order.path
    loaded: Any = pickle.loads(order.subject)  # noqa: S301
    subject = loaded if isinstance(loaded, Subject) else subject_of(*loaded)
    try:
        subject.make([torch.nn.Parameter(torch.ones(2, 2))])
    except Refused as error:
        answers.send(Answer("", result=str(error)))
        return
    answers.send(Answer(""))
    cases = {case.name: case for case in CASES}
    for job in order.jobs:
        answers.send(Answer(job, trying={}))
        try:
            if job == IDENTIFY:
                result: Any = observe(subject)
            else:
                result = run_case(
                    cases[job], subject, lambda setting, job=job: answers.send(Answer(job, setting))
                )
        except Refused as error:
            result = str(error)
        answers.send(Answer(job, result=result))
