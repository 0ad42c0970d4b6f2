"""`sgdm conventions`: the table, or one row of it with its equations."""

from dataclasses import fields
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sgdm.convention import DESCRIPTION, Convention
from sgdm.frameworks import get_convention, list_conventions

__all__ = ["conventions"]

_PROOF = {
    "recorded": "equal to recorded trajectories of the real thing",
    "transcribed": "equal to the published update, written down literally",
    "none": "none; it is not run",
}


def conventions(
    name: Annotated[
        str | None, typer.Argument(help="The convention to show; all of them without.")
    ] = None,
) -> None:
    """List the conventions of SGD with momentum, or show one with its equations."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if name is None:
        console.print(_table())
    else:
        _show(console, get_convention(name))


def _table() -> Table:
    table = Table("name", "ε", "rule", box=None, pad_edge=False)
    for row in list_conventions():
        table.add_row(row.name, row.lr if row.runs else "not run", row.title)
    return table


def _show(console: Console, row: Convention) -> None:
    also = f" (also {', '.join(row.aliases)})" if row.aliases else ""
    console.print(f"{row.name}{also}: {row.title}\n")
    if row.equations:
        console.print("As published:")
        for line in row.equations:
            console.print(f"    {line}")
    if row.runs:
        _show_steps(console, row)
    else:
        console.print(f"Not run by SGD: {row.obstacle}\n")
    axes = Table(show_header=False, box=None)
    for field in fields(row):
        if field.name not in DESCRIPTION:
            axes.add_row(field.name, str(getattr(row, field.name)))
    console.print(axes)
    for quirk in row.quirks:
        console.print(f"Note: {quirk}")
    if row.versions:
        console.print(f"Versions: {row.versions}")
    console.print(f"Source: {row.source}")
    console.print(f"Proof: {_PROOF[row.proof]}")


def _show_steps(console: Console, row: Convention) -> None:
    from sgdm.equations import step_equations  # loads sympy, which takes half a second

    for nesterov in (False, True):
        if (row.nesterov, nesterov) not in (("never", True), ("always", False)):
            optional = row.nesterov == "optional" and nesterov
            console.print("As it runs, with nesterov:" if optional else "As it runs:")
            for line in step_equations(row, nesterov=nesterov):
                console.print(f"    {line}")
    console.print(f"The first step of a parameter: {step_equations(row, first=True)[-2]}\n")
