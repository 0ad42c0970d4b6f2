"""`sgdm audit`: which rule an optimizer is, and what is wrong with it."""

import sys
from ast import literal_eval
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from sgdm.errors import FileError

if TYPE_CHECKING:
    from sgdm.audit.report import Report

__all__ = ["audit"]

_WIDE = 1000


def audit(
    subject: Annotated[
        str, typer.Argument(help="A class or factory as module:name, such as torch.optim:SGD.")
    ],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE for it; may be given again.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A case to run, in place of all; may be given again.")
    ] = None,
    equations: Annotated[
        bool, typer.Option("--equations", help="Print the step that was recovered.")
    ] = False,
    repro: Annotated[
        Path | None, typer.Option(help="A folder for a script that shows each defect.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="A file for everything, as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="A file for a page.")] = None,
    junit: Annotated[Path | None, typer.Option(help="A file for a CI's list of tests.")] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for one case.")] = 20.0,
) -> None:
    """Examine an optimizer: which rule it is, and which known defects it has.

    Exit status: 0 clean, 1 defects, 2 misuse.
    """
    from sgdm.audit.examine import examine_with
    from sgdm.files import write_atomically

    given = dict(_setting(text) for text in settings or ())
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("starting")
        report = examine_with(
            subject,
            given,
            only=only or (),
            time_limit=time_limit,
            progress=lambda name: bar.update(task, description=name),
        )
    _show(report, equations=equations)
    files = {
        path: text()
        for path, text in ((json, report.json), (markdown, report.markdown), (junit, report.junit))
        if path is not None
    }
    if repro is not None:
        try:
            repro.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            text = f"{repro} cannot be made ({error.strerror}); choose another place"
            raise FileError(text) from error
        files |= {repro / f"{f.name}.py": f.script for f in (*report.defects, *report.notes)}
    for path, text in files.items():
        write_atomically(path, lambda file, text=text: file.write(text.encode()))
    raise typer.Exit(1 if report.defects else 0)


def _setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; a value is a number, true, false, none, or else a word."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise typer.BadParameter(f"--set must be NAME=VALUE, got {text!r}; write --set lr=0.1")
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name, words[value.lower()]
    try:
        return name, literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _show(report: "Report", *, equations: bool) -> None:
    # What is said of a defect is never cut off, however narrow the terminal is.
    console = Console(highlight=False, markup=False, soft_wrap=True, width=_WIDE)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    console.print(report.subject)
    console.print(versions)
    console.print()
    for line in report.identity.lines():
        console.print(line)
    if equations:
        console.print()
        for line in (*report.identity.equations, *report.identity.rule_equations):
            console.print(line if line.endswith(":") else f"    {line}")
    found = (*report.defects, *report.notes)
    if found:
        console.print()
        table = Table("", "case", "what is wrong", "seen", box=None, pad_edge=False)
        for finding in found:
            kind = "note" if finding.note else "DEFECT"
            table.add_row(kind, finding.name, finding.defect, finding.text)
        console.print(table)
    console.print()
    console.print(f"{report.summary()}.")
