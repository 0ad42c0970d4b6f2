"""`sgdm conventions`: the table, or one row of it with its equations."""

from dataclasses import fields
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sgdm.convention import Convention
from sgdm.equations import step_equations
from sgdm.frameworks import get_convention, list_conventions

__all__ = ["conventions"]

_TEXT_FIELDS = ("name", "title", "equations", "source")


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
    table = Table("name", "lr", "buffer", "nesterov", "rule", box=None, pad_edge=False)
    for row in list_conventions():
        table.add_row(row.name, row.lr, row.sign, row.nesterov, row.title)
    return table


def _show(console: Console, row: Convention) -> None:
    console.print(f"{row.name}: {row.title}\n")
    console.print("As published:")
    for line in row.equations:
        console.print(f"    {line}")
    for nesterov in (False, True):
        if (row.nesterov, nesterov) not in (("never", True), ("always", False)):
            optional = row.nesterov == "optional" and nesterov
            console.print("As it runs, with nesterov:" if optional else "As it runs:")
            for line in step_equations(row, nesterov=nesterov):
                console.print(f"    {line}")
    console.print(f"The first step of a parameter: {step_equations(row, first=True)[-2]}\n")
    axes = Table(show_header=False, box=None)
    for field in fields(row):
        if field.name not in _TEXT_FIELDS:
            axes.add_row(field.name, str(getattr(row, field.name)))
    console.print(axes)
    console.print(f"Source: {row.source}")
