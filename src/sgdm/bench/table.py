"""What a person reads: a table a case, and all cases against sgdm at the end."""

from collections.abc import Sequence

from rich.table import Table

from sgdm.bench.results import Row
from sgdm.bench.rivals import SGDM

__all__ = ["case_table", "summary_table"]


def case_table(rows: Sequence[Row]) -> Table:
    """Return the table of one case.

    Args:
        rows: Of one case.
    """
    is_large = any(row.fraction is not None for row in rows)
    columns = {
        "a step": [duration(row.median) for row in rows],
        "20-80 %\nspread": [f"{100 * (row.q80 - row.q20) / row.median:.0f} %" for row in rows],
        "times\nsgdm": [f"{row.ratio:.2f}" for row in rows],
        "bytes/\nelement": [f"{row.bytes_per_step // row.elements}" for row in rows],
        "GB/s": [f"{row.gb_per_s:.1f}" if is_large else "" for row in rows],
        "of bare\nloop": [_shown(row.fraction, 100, "%") for row in rows],
        "extra\nmemory": [_shown(row.extra_memory_bytes, 1e-6, "MB") for row in rows],
    }
    shown = {heading: cells for heading, cells in columns.items() if any(cells)}
    table = _table("contestant", *shown)
    for row, *cells in zip(rows, *shown.values(), strict=True):
        table.add_row(row.contestant, *cells)
    return table


def summary_table(rows: Sequence[Row]) -> Table:
    """Return how many times as long as sgdm each contestant took in each case.

    Args:
        rows: Of all cases.
    """
    cases: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        cases.setdefault((row.case, row.rule, row.dtype), {})[row.contestant] = row
    rivals = list(dict.fromkeys(row.contestant for row in rows if row.contestant != SGDM))
    table = _table("case", SGDM, *(rival.removeprefix("torch ") for rival in rivals))
    for (case, rule, dtype), by_name in cases.items():
        suffix = "" if dtype == "float32" else f"-{dtype}"
        ratios = (f"{by_name[rival].ratio:.2f}" if rival in by_name else "" for rival in rivals)
        table.add_row(f"{case}:{rule}{suffix}", duration(by_name[SGDM].median), *ratios)
    return table


def duration(seconds: float) -> str:
    """Return three digits and a unit.

    Example:
        >>> duration(0.0123456)
        '12.3 ms'
    """
    units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
    unit, size = next((pair for pair in units if seconds >= pair[1]), units[-1])
    value = seconds / size
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def _shown(value: float | None, factor: float, unit: str) -> str:
    return "" if value is None else f"{factor * value:.0f} {unit}"


def _table(first: str, *headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
