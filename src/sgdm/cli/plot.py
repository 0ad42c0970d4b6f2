"""`sgdm plot`: the figures by name."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sgdm.errors import InvalidUseError

__all__ = ["plot"]


def plot(
    name: Annotated[
        str | None, typer.Argument(help="The figure; all of them are listed without.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A .png, .svg or .pdf file.")] = None,
    conventions: Annotated[
        str | None, typer.Option(help="Names with commas between, as in torch,torch:nesterov.")
    ] = None,
    surface: Annotated[
        str | None, typer.Option(help="quadratic, rosenbrock, beale, or several with commas.")
    ] = None,
    lr: Annotated[float | None, typer.Option()] = None,
    lr_drop_factor: Annotated[float | None, typer.Option()] = None,
    momentum: Annotated[float | None, typer.Option()] = None,
    nu: Annotated[float | None, typer.Option(help="For conventions with a ν.")] = None,
    weight_decay: Annotated[float | None, typer.Option()] = None,
    condition_number: Annotated[float | None, typer.Option(help="Of quadratics.")] = None,
    degree: Annotated[int | None, typer.Option(help="Of polynomials.")] = None,
    steps: Annotated[int | None, typer.Option()] = None,
    drop: Annotated[int | None, typer.Option(help="After how many steps lr drops.")] = None,
) -> None:
    """Draw a figure; every number in it is computed by the optimizer itself."""
    from sgdm.plots import draw_figure
    from sgdm.rule_name import parse_rules

    if name is None:
        _list()
        return
    if out is None:
        raise InvalidUseError("--out must be given, got nothing; name a .png, .svg or .pdf file")
    options = {
        "conventions": parse_rules(conventions) if conventions is not None else None,
        "surface": [one.strip() for one in surface.split(",")] if surface is not None else None,
        "lr": lr,
        "lr_drop_factor": lr_drop_factor,
        "momentum": momentum,
        "nu": nu,
        "weight_decay": weight_decay,
        "condition_number": condition_number,
        "degree": degree,
        "steps": steps,
        "drop": drop,
    }
    draw_figure(name, out, **{key: value for key, value in options.items() if value is not None})
    typer.echo(str(out))


def _list() -> None:
    from sgdm.plots import list_figures

    table = Table("name", "what it shows", box=None, pad_edge=False)
    for kind in list_figures():
        table.add_row(kind.name, kind.title)
    Console(highlight=False, markup=False, soft_wrap=True).print(table)
