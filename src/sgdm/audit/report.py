"""What was found, as sentences, JSON, Markdown and JUnit's XML."""

import json
from dataclasses import asdict, dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from sgdm.audit.case import Case
from sgdm.audit.identify import Fit, Match
from sgdm.audit.traits import Traits
from sgdm.equations import step_equations

__all__ = ["Finding", "Identity", "Report"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What came of a case.

    Attributes:
        name: The case's.
        defect: What it is about.
        note: Whether it is worth knowing and no defect.
        outcome: "refused" if the subject does not take what the case is about.
        text: What was seen, or why nothing was.
        script: A program that shows it; "" if it passed.
    """

    name: str
    defect: str
    note: bool
    outcome: Literal["passed", "failed", "refused"]
    text: str
    script: str

    @classmethod
    def of(
        cls,
        case: Case,
        outcome: Literal["passed", "failed", "refused"],
        text: str = "",
        script: str = "",
    ) -> "Finding":
        """Return what came of a case."""
        return cls(
            name=case.name,
            defect=case.defect,
            note=case.note,
            outcome=outcome,
            text=text,
            script=script,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Which rule it is.

    Attributes:
        steps: Whether it took the steps of the probes, with a closure if it takes one.
        rules: The conventions that do what it does in every probe.
        residual: How far the furthest of them is from what was seen, as a part of the movement.
        without_nesterov: Where there are none: those that do so without Nesterov's method.
        with_nesterov: And those that do so with it.
        nearest: The one that does so in most probes; "" where it is not needed.
        differs_in: The probes in which that one does something else.
        stranger: Why it is not of the family at all; "" where it is.
        sentences: What was measured without the table.
        equations: The step that was measured.
        rule_equations: The step of the first of the rules, as it runs here.
    """

    steps: bool = False
    rules: tuple[str, ...] = ()
    residual: float = 0.0
    without_nesterov: tuple[str, ...] = ()
    with_nesterov: tuple[str, ...] = ()
    nearest: str = ""
    differs_in: tuple[str, ...] = ()
    stranger: str = ""
    sentences: tuple[str, ...] = ()
    equations: tuple[str, ...] = ()
    rule_equations: tuple[str, ...] = ()

    @classmethod
    def of(cls, match: Match, traits: Traits) -> "Identity":
        """Put together what the table says and what was measured."""
        if traits.stranger and not match.rules:
            return cls(steps=traits.steps, stranger=traits.stranger)
        rules = _names(match.rules)
        return cls(
            steps=True,
            rules=rules,
            residual=max((fit.worst for fit in match.rules), default=0.0),
            without_nesterov=_names(match.without_nesterov),
            with_nesterov=_names(match.with_nesterov),
            nearest="" if match.nearest is None else match.nearest.candidate.name,
            differs_in=() if match.nearest is None else match.nearest.other,
            sentences=traits.sentences,
            equations=traits.equations,
            rule_equations=_equations(match.rules),
        )

    def lines(self) -> list[str]:
        """Return it as sentences."""
        if self.stranger:
            return [f"Not SGD with momentum: {self.stranger}."]
        if self.rules:
            return [f"The rule of {_listed(self.rules)}, to {self.residual:.0e}.", *self.sentences]
        told = ["A rule of this family, and none of the table."]
        if self.without_nesterov:
            told.append(f"Without nesterov it is the rule of {_listed(self.without_nesterov)}.")
        if self.with_nesterov:
            told.append(f"With nesterov it is the rule of {_listed(self.with_nesterov)}.")
        if self.nearest:
            told.append(f"The nearest is {self.nearest}, but for {', '.join(self.differs_in)}.")
        return [*told, *self.sentences]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What an examination found.

    Attributes:
        subject: What was examined, with its settings.
        versions: Of what took part, by name.
        identity: Which rule it is.
        findings: What came of each case.
    """

    subject: str
    versions: dict[str, str]
    identity: Identity
    findings: tuple[Finding, ...]

    @property
    def defects(self) -> tuple[Finding, ...]:
        """The cases that failed, without the notes."""
        return tuple(f for f in self.findings if f.outcome == "failed" and not f.note)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """The notes."""
        return tuple(f for f in self.findings if f.outcome == "failed" and f.note)

    def count(self, outcome: str) -> int:
        """Return how many cases ended so."""
        return sum(finding.outcome == outcome for finding in self.findings)

    def summary(self) -> str:
        """Return one line."""
        found = [
            _counted(len(self.defects), "defect"),
            _counted(len(self.notes), "note"),
            f"{_counted(self.count('passed'), 'case')} passed",
        ]
        refused = self.count("refused")
        if refused:
            found.append(f"{refused} {'does' if refused == 1 else 'do'} not apply")
        return ", ".join(found)

    def json(self) -> str:
        """Return everything as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=2)

    def markdown(self) -> str:
        """Return it for a page or a pull request."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = [f"## {self.subject}", "", versions, "", *self.identity.lines(), ""]
        equations = (*self.identity.equations, *self.identity.rule_equations)
        if equations:
            lines += ["```text", *equations, "```", ""]
        lines += [f"{self.summary()}."]
        for finding in (*self.defects, *self.notes):
            kind = "note" if finding.note else "defect"
            lines += ["", f"### {finding.name} ({kind}): {finding.defect}", "", finding.text]
            lines += ["", "```python", finding.script.rstrip("\n"), "```"]
        return "\n".join(lines) + "\n"

    def junit(self) -> str:
        """Return it as JUnit's XML: a test a case."""
        suite = ET.Element(
            "testsuite",
            name=self.subject,
            tests=str(len(self.findings)),
            failures=str(len(self.defects)),
            skipped=str(self.count("refused")),
        )
        for finding in self.findings:
            case = ET.SubElement(suite, "testcase", classname="sgdm.audit", name=finding.name)
            if finding.outcome == "refused":
                ET.SubElement(case, "skipped", message=finding.text)
            elif finding.outcome == "failed" and not finding.note:
                failure = ET.SubElement(
                    case, "failure", message=f"{finding.defect}: {finding.text}"
                )
                failure.text = finding.script
            elif finding.outcome == "failed":
                ET.SubElement(case, "system-out").text = f"{finding.defect}: {finding.text}"
        ET.indent(suite)
        return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _names(fits: tuple[Fit, ...]) -> tuple[str, ...]:
    return tuple(fit.candidate.name for fit in fits)


def _equations(fits: tuple[Fit, ...]) -> tuple[str, ...]:
    """Return the step of the first of the rules, with Nesterov's method beside it."""
    if not fits:
        return ()
    row = fits[0].candidate.convention
    lines = (f"The rule of {row.name}:", *step_equations(row))
    if row.nesterov == "optional":
        lines += ("With nesterov:", *step_equations(row, nesterov=True))
    return lines


def _listed(names: tuple[str, ...]) -> str:
    """List names; what all of them are with is told once."""
    ways = {name.partition(" with ")[2] for name in names}
    if len(ways) == 1 and ways != {""}:
        return f"{_listed(tuple(name.partition(' with ')[0] for name in names))} with {ways.pop()}"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}" + ("" if number == 1 else "s")
