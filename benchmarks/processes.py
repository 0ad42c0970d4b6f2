"""What processes do together on this machine, sums and steps of shards: adds to processes.csv.

Run on a machine that does nothing else, some minutes: python benchmarks/processes.py

`tools/scaling_page.py` then puts it into docs/scaling.md, beside what the cost model says.
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from sgdm.bench.collectives import ALL_REDUCE, ELEMENTS, time_all_reduce
from sgdm.bench.machine import this_machine, using_threads
from sgdm.bench.measure import Timing
from sgdm.bench.processes import in_processes
from sgdm.bench.results import Machine, ProcessRow, append_process_rows
from sgdm.bench.sharded import CASES, time_steps
from sgdm.bench.table import duration

RESULTS = Path(__file__).with_suffix(".csv")


def measured(machine: Machine, rounds: int, seconds: float) -> Iterator[ProcessRow]:
    """Yield a row for each thing that was timed.

    Args:
        machine: Where it runs; each process uses one thread.
        rounds: Samples of each.
        seconds: After how long a case ends all the same.
    """
    for processes in (2, 4):
        timings = in_processes(processes, time_all_reduce, ELEMENTS, rounds, seconds)
        for elements, timing in timings.items():
            yield row(machine, timing, processes, 1, int(elements), ALL_REDUCE)
    for tensors, elements in CASES:
        for processes in (1, 2):
            timings = in_processes(processes, time_steps, tensors, elements, rounds, seconds)
            for contestant, timing in timings.items():
                yield row(machine, timing, processes, tensors, elements, contestant)


def row(
    machine: Machine,
    timing: Timing,
    processes: int,
    tensors: int,
    elements: int,
    contestant: str,
) -> ProcessRow:
    """Return what is kept of a timing."""
    return ProcessRow(
        **asdict(machine),
        processes=processes,
        tensors=tensors,
        elements=elements,
        contestant=contestant,
        **asdict(timing),
    )


def main() -> None:
    """Measure, and add the rows to the file at the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--csv", type=Path, default=RESULTS, help="where the rows are added")
    parser.add_argument("--rounds", type=int, default=300, help="samples of each")
    parser.add_argument("--seconds", type=float, default=10, help="after so long a case ends")
    options = parser.parse_args()
    append_process_rows(options.csv, [])  # a file that cannot be written is named before the run
    with using_threads(1):
        machine = this_machine()
    rows: list[ProcessRow] = []
    for found in measured(machine, options.rounds, options.seconds):
        spread = 100 * (found.q80 - found.q20) / found.median
        print(
            f"{found.processes} processes, {found.tensors} x {found.elements}: "
            f"{found.contestant:22} {duration(found.median):>8}  ({spread:.0f} %)"
        )
        rows.append(found)
    append_process_rows(options.csv, rows)


if __name__ == "__main__":
    main()
