"""`sgdm convert`: a checkpoint file of one framework into one of another."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from sgdm.convert.job import Summary

__all__ = ["convert"]

_WIDE = 1000


def convert(
    source: Annotated[Path, typer.Argument(help="The file with the state.")],
    target: Annotated[Path, typer.Argument(help="The file to write.")],
    source_format: Annotated[
        str,
        typer.Option("--from", help="torch, safetensors, keras, caffe, optax or sklearn."),
    ],
    target_format: Annotated[str, typer.Option("--to", help="The same names.")],
    weights: Annotated[
        Path | None, typer.Option(help="The source's parameters, where they are apart.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="A file of the target's format and model to write after.")
    ] = None,
    name_map: Annotated[
        Path | None, typer.Option("--map", help="A TOML file: source names to target names.")
    ] = None,
    convention: Annotated[
        str | None, typer.Option(help="Of the target, for torch and safetensors.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Of the step to come.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of the step to come.")] = None,
    nesterov: Annotated[
        bool | None, typer.Option(help="Before what the source says.", show_default=False)
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Before what it says.")] = None,
    port: Annotated[
        bool, typer.Option("--port", help="Take the lr and momentum that the target needs.")
    ] = False,
    allow_unmatched: Annotated[
        bool, typer.Option("--allow-unmatched", help="Leave out what has no counterpart.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and convert everything; write nothing.")
    ] = False,
) -> None:
    """Convert parameters and momentum so that training goes on as if nothing had happened."""
    from sgdm.convert.job import Job, convert_file
    from sgdm.convert.matching import NameMap

    given: dict[str, Any] = {
        "lr": lr,
        "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
    }
    job = Job(
        source=source,
        target=target,
        source_format=source_format,
        target_format=target_format,
        weights=weights,
        template=template,
        names=NameMap({}) if name_map is None else NameMap.read(name_map),
        convention=convention,
        hyperparameters={name: value for name, value in given.items() if value is not None},
        port=port,
        allow_unmatched=allow_unmatched,
        dry_run=dry_run,
    )
    # A name is never cut off, however narrow the terminal is.
    console = Console(highlight=False, markup=False, soft_wrap=True, width=_WIDE)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("converting", total=None)
        summary = convert_file(job, progress=lambda total: bar.update(task, total=total, advance=1))
    _show(console, summary)
    console.print(f"{target} {'would be written' if dry_run else 'written'}")


def _show(console: Console, summary: "Summary") -> None:
    from sgdm.convert.checkpoint import listed, printable

    table = Table(
        "parameter", "becomes", "shape", "layout", "norm", "then", box=None, pad_edge=False
    )
    for row in summary.rows:
        norms = ("-" if norm is None else f"{norm:.6g}" for norm in (row.before, row.after))
        shape = "x".join(map(str, row.shape)) or "()"
        table.add_row(printable(row.name), printable(row.target), shape, row.layout, *norms)
    console.print(table)
    if summary.map is None:
        console.print("No momentum: the file holds none.")
    else:
        console.print(
            f"{summary.source} to {summary.target}: the same trajectory {summary.map.identical}."
        )
    for remark in summary.remarks:
        console.print(f"Note: {printable(remark)}")
    matched = summary.matched
    for what, names in {
        "Left out of the source": matched.unused,
        "Left as the template has it": matched.missing,
        "Without a counterpart, and no floating-point numbers": matched.counters,
    }.items():
        if names:
            console.print(f"{what}: {listed(names)}")
