"""The examination of an optimizer, and the check for its author's own tests."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sgdm.audit.case import Case
from sgdm.audit.cases import CASES
from sgdm.audit.processes import Processes
from sgdm.audit.report import Report
from sgdm.errors import InvalidValueError
from sgdm.frameworks import get_convention

__all__ = ["check", "examine", "examine_with"]


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
        InvalidUseError: If its module cannot be loaded.

    Example:
        >>> import torch
        >>> from sgdm.audit import examine
        >>> report = examine(torch.optim.SGD, lr=0.1, momentum=0.9)
        >>> report.identity.rules[:2]
        ('torch', 'torch7')
    """
    return examine_with(subject, settings, time_limit=time_limit, progress=progress)


def examine_with(
    subject: str | Callable[..., Any],
    settings: Mapping[str, Any],
    *,
    only: Sequence[str] = (),
    time_limit: float = 20.0,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Do what `examine` does, for settings of any name.

    Args:
        subject: As there.
        settings: The arguments to examine it with.
        only: Names of cases to run in place of all.
        time_limit: As there.
        progress: As there.

    Raises:
        InvalidValueError: If no case has one of the names, or as there.

    Example:
        >>> import torch
        >>> from sgdm.audit.examine import examine_with
        >>> found = examine_with(torch.optim.SGD, {"lr": 0.1}, only=["scalars-move"])
        >>> [finding.outcome for finding in found.findings]
        ['passed', 'passed']
    """
    if not time_limit > 0:
        raise InvalidValueError.of("time_limit", "> 0", time_limit, "give seconds")
    cases = _chosen(only)
    made = Processes(subject, settings, time_limit=time_limit, progress=progress)
    made.run(cases)
    assert made.described is not None
    assert made.identity is not None
    return Report(
        subject=made.described.title,
        versions=made.described.versions,
        identity=made.identity,
        findings=tuple(made.findings[case.name] for case in cases),
    )


def _chosen(only: Sequence[str]) -> tuple[Case, ...]:
    """Return the cases of these names, behind whether it steps at all; all for none."""
    unknown = sorted(set(only) - {case.name for case in CASES})
    if unknown:
        raise InvalidValueError.of("only", "names of cases", unknown, "mend them")
    return tuple(case for case in CASES if not only or case is CASES[0] or case.name in only)


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
