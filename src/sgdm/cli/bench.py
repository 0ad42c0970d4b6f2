"""`sgdm bench`: what a step costs, beside torch's own ways to take it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sgdm.errors import InvalidUseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sgdm.bench.cases import Case
    from sgdm.bench.results import Machine, Row
    from sgdm.bench.run import Effort, Measured

__all__ = ["bench"]

_QUICK_ROUNDS, _QUICK_SECONDS = 5, 0.5


def bench(
    case: Annotated[
        list[str] | None,
        typer.Option(
            help="A network, with a rule as in gpt2:nesterov, or sweep; may be given again.",
            show_default="all",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Samples of each contestant.")] = 25,
    seconds: Annotated[
        float, typer.Option(help="After so long a case ends, once it has 3 rounds.")
    ] = 20.0,
    threads: Annotated[int | None, typer.Option(show_default="torch's own")] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compiled", help="Compile cases of many tensors too; that takes minutes."),
    ] = False,
    memory: Annotated[
        bool, typer.Option(help="Measure what a step allocates, on large tensors.")
    ] = True,
    csv: Annotated[Path | None, typer.Option(help="Add the results to this file.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Measure the sweep too, and draw it into this file.")
    ] = None,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Measure nothing; draw the last run in --csv.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small cases, few rounds: some seconds.")
    ] = False,
) -> None:
    """Time sgdm.SGD against torch.optim.SGD: default, foreach, fused and compiled."""
    from sgdm.bench.cases import EVERYTHING, QUICK, pick_cases
    from sgdm.bench.machine import using_threads
    from sgdm.bench.run import COMPILED_UP_TO, Effort, measure_alone, measure_case
    from sgdm.plots.style import check_picture

    if figure is not None:
        check_picture(figure, name="figure", extra="bench")
    if redraw:
        _redraw(csv, figure)
        return
    names = [*(case or (QUICK if quick else EVERYTHING)), *(["sweep"] if figure else [])]
    cases = pick_cases(names)
    effort = Effort(
        rounds=min(rounds, _QUICK_ROUNDS) if quick else rounds,
        seconds=min(seconds, _QUICK_SECONDS) if quick else seconds,
        compile_up_to=sys.maxsize if compiled else 0 if quick else COMPILED_UP_TO,
        memory=memory,
    )
    with using_threads(threads):
        rows = _measure_all(cases, effort, csv, measure_case if quick else measure_alone)
    if figure is not None:
        _draw(rows, figure)


def _measure_all(
    cases: "list[Case]",
    effort: "Effort",
    csv: Path | None,
    measure: "Callable[[Case, Machine, Effort], Measured]",
) -> "list[Row]":
    from sgdm.bench.machine import this_machine
    from sgdm.bench.results import append_rows
    from sgdm.bench.table import case_table, summary_table

    machine = this_machine()
    if csv is not None:
        append_rows(csv, [])  # a file that cannot be written is named before the run
    console = Console(highlight=False, markup=False)
    console.print(f"{machine.cpu}, {machine.capability}, threads: {machine.threads}")
    console.print(f"sgdm {machine.sgdm}, torch {machine.torch}, python {machine.python}")
    rows: list[Row] = []
    for number, case in enumerate(cases, 1):
        network = case.network
        console.print(
            f"\n[{number}/{len(cases)}] {case.name}: tensors: {network.tensors:,}, "
            f"elements: {network.elements:,}"
        )
        measured = measure(case, machine, effort)
        if csv is not None:
            append_rows(csv, measured.rows)
        rows += measured.rows
        console.print(case_table(measured.rows), *measured.notes, sep="\n")
    console.print("\nHow many times as long as sgdm a step takes:")
    console.print(summary_table(rows))
    if csv is not None:
        console.print(str(csv))
    return rows


def _redraw(csv: Path | None, figure: Path | None) -> None:
    from sgdm.bench.results import read_latest

    if csv is None or figure is None:
        raise InvalidUseError(
            "--redraw must be given with --csv and --figure, which it reads and writes; add both"
        )
    _draw(read_latest(csv), figure)


def _draw(rows: "list[Row]", figure: Path) -> None:
    from sgdm.plots.bench import draw_bench

    draw_bench(rows, figure)
    typer.echo(str(figure))
