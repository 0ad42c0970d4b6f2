"""Runs everything on a subject, each piece under a time limit, and puts the report together."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from multiprocessing.connection import Connection
from platform import python_version
from typing import Any, NamedTuple

from sgdm.audit.case import Case, Result, script
from sgdm.audit.cases import CASES
from sgdm.audit.child import IDENTIFY, Answer, Order
from sgdm.audit.identify import identify
from sgdm.audit.named import subject_of
from sgdm.audit.observe import Observations
from sgdm.audit.probes import known_hyperparameters
from sgdm.audit.report import Finding, Identity, Report
from sgdm.audit.subject import Subject
from sgdm.audit.traits import traits_of
from sgdm.errors import InvalidUseError, InvalidValueError
from sgdm.extras import load_extra
from sgdm.frameworks import get_convention
from sgdm.version import __version__

__all__ = ["check", "examine"]

_START_SECONDS = 180.0  # importing a framework, the first time
_MOST_HANGS = 3  # so that one that always hangs is told within a minute or two


def examine(
    subject: str | Callable[..., Any],
    *,
    time_limit: float = 20.0,
    progress: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> Report:
    """Find out which rule an optimizer is, and which known defects it has.

    It runs in a process of its own: a crash or a hang is a finding.

    Args:
        subject: A `torch.optim.Optimizer` class, a function that returns an optimizer, or either
            as "module:name". What `from_optax`, `from_keras` or `from_function` made is one, and so
            is what they take.
        time_limit: Seconds for one case, > 0.
        progress: Told the name of each piece before it runs.
        **settings: The arguments to examine it with, lr and momentum above all.

    Raises:
        InvalidValueError: If it cannot be made with these settings; the text says why.

    Example:
        >>> import torch
        >>> from sgdm.audit import examine
        >>> report = examine(torch.optim.SGD, lr=0.1, momentum=0.9)
        >>> report.identity.rules[:2]
        ('torch', 'torch7')
    """
    if not time_limit > 0:
        raise InvalidValueError.of("time_limit", "> 0", time_limit, "give seconds")
    found = subject_of(subject, settings)
    stepping, *others = (case.name for case in CASES)
    jobs = [stepping, IDENTIFY, *others]
    results = _Children(found, time_limit, progress).run(jobs)
    findings = tuple(_finding(case, found, results[case.name]) for case in CASES)
    return Report(
        subject=found.title(),
        versions=_versions(found),
        identity=_identity(found, results[IDENTIFY]),
        findings=findings,
    )


def check(
    subject: str | Callable[..., Any],
    *,
    rule: str | None = None,
    allow: Sequence[str] = (),
    time_limit: float = 20.0,
    **settings: Any,
) -> None:
    """Examine an optimizer and fail if it has a defect, for an optimizer's own tests.

    Args:
        subject: As for `examine`.
        rule: The convention that it must be; None for any, or none.
        allow: Names of cases that may fail.
        time_limit: As for `examine`.
        **settings: As for `examine`.

    Raises:
        AssertionError: If a case fails, or it is another rule. The text is the report.
        InvalidValueError: If `allow` has a name that no case has, or `examine` raises it.

    Example:
        >>> import sgdm
        >>> from sgdm.audit import check
        >>> check(sgdm.SGD, rule="torch", lr=0.1, momentum=0.9)
    """
    unknown = set(allow) - {case.name for case in CASES}
    if unknown:
        raise InvalidValueError.of("allow", "names of cases", sorted(unknown), "mend them")
    if rule is not None:
        rule = get_convention(rule).name
    report = examine(subject, time_limit=time_limit, **settings)
    wrong = [finding for finding in report.defects if finding.name not in allow]
    told = [f"{finding.defect}: {finding.text}\n\n{finding.script}" for finding in wrong]
    if rule is not None and rule not in report.identity.rules:
        told.append(f"it is not {rule!r}: {' '.join(report.identity.lines())}")
    if told:
        raise AssertionError(f"{report.subject}\n" + "\n".join(told))


class _Done(NamedTuple):
    """What came of a job."""

    result: Any
    setting: Mapping[str, Any]


class _Children:
    """Processes, one after the other: each goes on behind the job that ended the one before."""

    def __init__(
        self, subject: Subject, time_limit: float, progress: Callable[[str], None]
    ) -> None:
        self._subject = subject
        self._time_limit = time_limit
        self._progress = progress
        self._results: dict[str, _Done] = {}
        self._hangs = 0

    def run(self, jobs: list[str]) -> dict[str, _Done]:
        self._run_child(jobs[:1])
        stepping: Result = self._results[jobs[0]].result
        if stepping.outcome == "failed":
            self._leave_out(jobs[2:], "it cannot step")
            self._results[jobs[1]] = _Done(stepping, {})
        while remaining := [job for job in jobs if job not in self._results]:
            if self._hangs < _MOST_HANGS:
                self._run_child(remaining)
            else:
                self._leave_out(remaining, f"{_MOST_HANGS} others did not come back")
        return self._results

    def _leave_out(self, jobs: list[str], why: str) -> None:
        self._results |= {job: _Done(Result("refused", f"not run: {why}"), {}) for job in jobs}

    def _run_child(self, jobs: list[str]) -> None:
        read, write = os.pipe()
        with (
            Connection(read, writable=False) as answers,
            tempfile.TemporaryFile() as said,
            subprocess.Popen(  # noqa: S603 - this Python, and our own program
                [sys.executable, "-c", f"from sgdm.audit.child import main; main({write})"],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                pass_fds=[write],
                start_new_session=True,
            ) as child,
        ):
            os.close(write)
            try:
                assert child.stdin is not None
                pickle.dump(Order(sys.path, _pickled(self._subject), jobs), child.stdin)
                child.stdin.close()
                self._listen(child, answers, said)
            finally:
                _kill(child)

    def _listen(self, child: "subprocess.Popen[bytes]", answers: Connection, said: Any) -> None:
        job, setting, seconds = "", {}, _START_SECONDS
        while True:
            try:
                if not answers.poll(seconds):
                    self._hangs += 1
                    end = f"it did not come back within {seconds:g} s"
                    break
                answer: Answer = answers.recv()
            except EOFError:
                if child.wait() == 0:
                    return
                end = _how_it_ended(child.returncode, said)
                break
            if not answer.job:
                if answer.result is not None:
                    name = self._subject.title()
                    raise InvalidValueError(
                        f"{name} cannot be made: {answer.result}; mend the settings"
                    )
                continue
            if answer.trying is None:
                self._results[answer.job] = _Done(answer.result, {})
                continue
            if answer.job != job:
                self._progress(answer.job)
            job, setting, seconds = answer.job, answer.trying, self._time_limit
        if not job:
            raise InvalidUseError(f"{self._subject.title()} cannot be loaded: {end}")
        self._results[job] = _Done(Result("failed", end, setting), setting)


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """End it and all that it has forked."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _how_it_ended(status: int, said: Any) -> str:
    if status < 0:
        return f"the process was ended by {signal.Signals(-status).name}"
    said.seek(0)
    lines = said.read().decode(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"the process ended with status {status}: {last}"


def _pickled(subject: Subject) -> bytes:
    """Return the subject for another process: by its name, or by value where it has none."""
    if subject.module:
        return pickle.dumps((f"{subject.module}:{subject.name}", dict(subject.settings)))
    return load_extra("cloudpickle", extra="audit").dumps(subject)


def _finding(case: Case, subject: Subject, done: _Done) -> Finding:
    result: Result = done.result
    failed = result.outcome == "failed"
    return Finding(
        name=case.name,
        defect=case.defect,
        note=case.note,
        outcome=result.outcome,
        text=result.text,
        script=script(case, subject, result.setting) if failed else "",
    )


def _identity(subject: Subject, done: _Done) -> Identity:
    seen = done.result
    if isinstance(seen, Result):
        return Identity(stranger=seen.text)
    if not isinstance(seen, Observations):
        return Identity(stranger=f"it cannot be probed: {seen}")
    traits, known = traits_of(seen), known_hyperparameters(subject)
    if traits.impulse is not None and "momentum" not in known:
        known["momentum"] = traits.impulse.memory  # it has another name there, or none
    return Identity.of(identify(seen, known), traits)


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
