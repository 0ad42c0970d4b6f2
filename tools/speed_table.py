"""Put the last run in benchmarks/steps.csv into docs/engines.md: run it after `make bench`.

`tests/test_docs.py` checks that the page shows what the file holds.
"""

import re
from pathlib import Path

from sgdm.bench.networks import NETWORKS
from sgdm.bench.results import Row, read_latest
from sgdm.bench.rivals import COMPILED, COMPOSED, DEFAULT, FOREACH, FUSED, SGDM
from sgdm.bench.table import duration

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "engines.md"
RESULTS = ROOT / "benchmarks" / "steps.csv"
MARKED = re.compile(r"(<!-- measured -->\n).*?(<!-- -->)", re.DOTALL)


def speed_table(rows: list[Row]) -> str:
    """Return the cases as a table: sgdm's time, and how many times as long the others take."""
    named = {network.name for network in NETWORKS}
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.case in named:
            suffix = "" if row.dtype == "float32" else f"-{row.dtype}"
            cases.setdefault(f"{row.case}:{row.rule}{suffix}", {})[row.contestant] = row
    rivals = (DEFAULT, FOREACH, FUSED, COMPILED, COMPOSED)
    heads = ["case", "`sgdm.SGD`", *(name.removeprefix("torch ") for name in rivals), "bare loop"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, by_contestant in cases.items():
        ours = by_contestant[SGDM]
        ratios = [f"{by_contestant[r].ratio:.2f}" if r in by_contestant else "" for r in rivals]
        fraction = "" if ours.fraction is None else f"{100 * ours.fraction:.0f} %"
        lines.append([f"`{name}`", duration(ours.median), *ratios, fraction])
    first = rows[0]
    machine = f"{first.cpu}, {first.capability}, {first.threads} threads, torch {first.torch}\n\n"
    return machine + "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def with_table(page: str, rows: list[Row]) -> str:
    """Return the page with the table between its marks."""
    return MARKED.sub(lambda found: found[1] + speed_table(rows) + found[2], page)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8"), read_latest(RESULTS)), "utf-8")
