"""The process in which a subject runs, so that one that crashes or hangs is a finding."""

import pickle
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from multiprocessing.connection import Connection
from platform import python_version
from typing import Any, NamedTuple

from sgdm.audit.case import Case, Result, run_case, script
from sgdm.audit.cases import CASES
from sgdm.audit.identify import identify
from sgdm.audit.named import subject_of
from sgdm.audit.observe import observe
from sgdm.audit.report import Finding, Identity
from sgdm.audit.subject import Refused, Subject
from sgdm.audit.traits import traits_of
from sgdm.errors import InvalidValueError, SgdmError
from sgdm.version import __version__

__all__ = ["IDENTIFY", "Answer", "Described", "Order", "main"]

IDENTIFY = "identify"  # the job that is no case


class Order(NamedTuple):
    """What a child is to do.

    Attributes:
        path: Where modules are found.
        subject: Pickled: the arguments of `subject_of`.
        jobs: Names of cases, or IDENTIFY.
    """

    path: list[str]
    subject: bytes
    jobs: list[str]


class Described(NamedTuple):
    """A subject that could be made.

    Attributes:
        title: What it is called.
        versions: Of what takes part, by name.
    """

    title: str
    versions: dict[str, str]


class Answer(NamedTuple):
    """What a child says.

    Attributes:
        job: Which; "" for the subject as a whole.
        script: What shows it if nothing comes back, where it has yet to be tried.
        result: A `Finding` or an `Identity`; of the whole, `Described`, an `SgdmError` where it
            cannot be made, or None when all is done.
    """

    job: str
    script: str | None = None
    result: Any = None


def main(descriptor: int) -> None:
    """Carry out the order that stands on standard input.

    Args:
        descriptor: Of the pipe that answers go to.
    """
    pipe = Connection(descriptor, readable=False)

    def tell(answer: Answer) -> None:
        # Not `send`: torch has taught that to share tensors between relatives, which these are not.
        pipe.send_bytes(pickle.dumps(answer))

    order: Order = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own parent's
    sys.path[:] = order.path
    try:
        subject = _loaded(order)
    except SgdmError as error:
        tell(Answer("", result=error))
        return
    tell(Answer("", result=Described(subject.title(), _versions(subject))))
    cases = {case.name: case for case in CASES}
    stepping = Result("passed")
    for job in order.jobs:
        if job == IDENTIFY:
            tell(Answer(job, script=""))
            tell(Answer(job, result=_identity(subject)))
        elif stepping.outcome != "failed":
            case = cases[job]

            def trying(setting: Mapping[str, Any], case: Case = case) -> None:
                tell(Answer(case.name, script(case, subject, setting)))

            result = run_case(case, subject, trying)
            tell(Answer(job, result=_finding(case, subject, result)))
            if case is CASES[0]:
                stepping = result
    tell(Answer(""))


def _loaded(order: Order) -> Subject:
    given, settings = pickle.loads(order.subject)  # noqa: S301 - our own parent's
    subject = subject_of(given, settings)
    try:
        subject.makes_torch()
    except Refused as error:
        text = f"{subject.title()} cannot be made: {error}; mend the settings"
        raise InvalidValueError(text) from error
    return subject


def _finding(case: Case, subject: Subject, result: Result) -> Finding:
    failed = result.outcome == "failed"
    shown = script(case, subject, result.setting) if failed else ""
    return Finding.of(case, result.outcome, result.text, shown)


def _identity(subject: Subject) -> Identity:
    try:
        seen = observe(subject)
    except Refused as error:
        return Identity(stranger=f"it cannot be probed: {error}")
    traits = traits_of(seen)
    return Identity.of(identify(seen, traits), traits)


def _versions(subject: Subject) -> dict[str, str]:
    """Return those of Python, of this package, of torch, and of what brings the subject."""
    top = subject.module.partition(".")[0]
    found = {"python": python_version(), "sgdm": __version__}
    for distribution in dict.fromkeys(["torch", *packages_distributions().get(top, [])]):
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found
