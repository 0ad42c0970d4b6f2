"""Put into docs/numerics.md how far sgdm and the real frameworks are apart: run it after recording.

`tests/test_docs.py` checks that the page shows what is measured. The native engine is measured: its
bits do not depend on the processor. The other has the same ones wherever torch uses fma.
"""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sgdm import Convention, get_convention

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "numerics.md"
MARKED = re.compile(r"(<!-- measured -->\n).*(<!-- -->)", re.DOTALL)
sys.path.append(str(ROOT / "tests"))
records: Any = import_module("records")
# Cases in which a framework does another thing, which its row's quirks say.
ANOTHER: Any = import_module("test_conformance").ANOTHER


class Agreement(NamedTuple):
    """How near one row comes to its framework in one dtype, over all recorded cases.

    Attributes:
        cases: How many there are.
        same: In how many parameters and buffers have the same bits at every step.
        worst: The largest distance of a parameter or buffer, in parts of the trajectory's size.
    """

    cases: int
    same: int
    worst: float


def agreement(row: Convention, dtype: str) -> Agreement:
    """Replay what was recorded."""
    found: list[tuple[bool, float]] = []
    for record in records.recorded(row.name).records:
        if record.dtype == dtype and (row.name, record.name) not in ANOTHER:
            p, b = records.replay(row, record, engine="native")
            there = ~np.isnan(record.b)
            same = bool((p == record.p).all() and (b == record.b)[there].all())
            found.append((same, max(records.distance(p, record.p), records.distance(b, record.b))))
    return Agreement(
        len(found), sum(same for same, _ in found), max((d for _, d in found), default=0)
    )


def table() -> Iterator[str]:
    """Yield the lines of the table, and before it what is most in it."""
    rows = [get_convention(name) for name in records.recorded_rows()]
    told = {
        row.name: [agreement(row, dtype) for dtype in ("float64", "float32")]
        for row in rows
        if row.runs
    }
    exact = [name for name, cells in told.items() if all(c.cases == c.same for c in cells)]
    worst = [max(cells[i].worst for cells in told.values()) for i in (0, 1)]
    yield f"The largest distances are {worst[0]:.1e} in float64 and {worst[1]:.1e} in float32. "
    yield f"Every bit is the same with {', '.join(f'`{name}`' for name in exact)}.\n"
    yield "\n| row | float64: runs | same bits | apart | float32: runs | same bits | apart |\n"
    yield "|---|---:|---:|---:|---:|---:|---:|\n"
    for name, cells in told.items():
        yield f"| `{name}` | {' | '.join(shown(cell) for cell in cells)} |\n"


def shown(found: Agreement) -> str:
    """Write one cell of three."""
    if not found.cases:
        return " | | "
    return f"{found.cases} | {found.same or '-'} | {f'{found.worst:.0e}' if found.worst else '0'}"


def with_table() -> str:
    """Return the page with its table between the marks."""
    return MARKED.sub(lambda marks: marks[1] + "".join(table()) + marks[2], PAGE.read_text("utf-8"))


if __name__ == "__main__":
    PAGE.write_text(with_table(), "utf-8")
