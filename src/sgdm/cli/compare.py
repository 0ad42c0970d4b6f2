"""`sgdm compare`: when two conventions make the same trajectory, and what makes them."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["compare"]


def compare(
    a: Annotated[str, typer.Argument(help="A convention, by name.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    nesterov: Annotated[
        bool, typer.Option("--nesterov", help="Ask Nesterov's method of those that have it.")
    ] = False,
    dampening: Annotated[
        bool, typer.Option("--dampening", help="Give the same τ to those that have it.")
    ] = False,
    weight_decay: Annotated[
        bool, typer.Option("--weight-decay", help="Give the same λ to both.")
    ] = False,
    correct_momentum: Annotated[
        bool, typer.Option("--correct-momentum", help="Correct the momentum of those that can.")
    ] = False,
) -> None:
    """Say how two conventions differ, when they are the same, and how to make them the same."""
    from sgdm.compare import compare_conventions

    found = compare_conventions(
        a,
        b,
        nesterov=nesterov,
        dampening=dampening,
        weight_decay=weight_decay,
        correct_momentum=correct_momentum,
    )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    side_by_side = Table(found.a, found.b, box=None, pad_edge=False)
    for line in range(max(len(found.equations_a), len(found.equations_b))):
        texts = (found.equations_a, found.equations_b)
        side_by_side.add_row(*(text[line] if line < len(text) else "" for text in texts))
    console.print(side_by_side)
    console.print()
    for line in found.lines():
        console.print(line)
