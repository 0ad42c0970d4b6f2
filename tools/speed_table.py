"""Put what benchmarks/ has measured into the pages: run it after `make bench`.

`tests/test_docs.py` checks that the pages show what the file holds.
"""

import csv
import re
from pathlib import Path

from sgdm.bench.networks import NETWORKS
from sgdm.bench.results import Row, read_latest
from sgdm.bench.rivals import COMPILED, COMPOSED, DEFAULT, FOREACH, FUSED, SGDM
from sgdm.bench.table import duration

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "steps.csv"
MARKED = re.compile(r"(<!-- measured -->\n).*?(<!-- -->)", re.DOTALL)

SHOWN = {
    "tiny:nesterov": "six tensors of a small MLP",
    "1000x256:nesterov": "1000 tensors of 256",
    "resnet50:nesterov": "ResNet-50's 161 tensors",
    "gpt2:nesterov": "GPT-2 small's 148",
    "1x50m:nesterov": "one of 50 million",
    "resnet50:recipe": "the recipe",
}


def full_table(rows: list[Row]) -> str:
    """Return every case: sgdm's time, and how many times as long the others take."""
    rivals = (DEFAULT, FOREACH, FUSED, COMPILED, COMPOSED)
    heads = ["case", "`sgdm.SGD`", *(name.removeprefix("torch ") for name in rivals), "bare loop"]
    lines: list[list[str]] = []
    for name, by_contestant in _cases(rows).items():
        ours = by_contestant[SGDM]
        fraction = "" if ours.fraction is None else f"{100 * ours.fraction:.0f} %"
        times = [duration(ours.median), *_ratios(by_contestant, rivals), fraction]
        lines.append([f"`{name}`", *times])
    first = rows[0]
    machine = f"{first.cpu}, {first.capability}, {first.threads} threads"
    versions = f"sgdm {first.sgdm}, torch {first.torch}, Python {first.python}"
    return f"{machine}; {versions}; {first.date[:10]}\n\n{_table(heads, lines)}"


def short_table(rows: list[Row]) -> str:
    """Return how many times as long torch's default and its fastest take, in a few cases."""
    cases = _cases(rows)
    lines: list[list[str]] = []
    for name, title in SHOWN.items():
        best = COMPOSED if COMPOSED in cases[name] else FUSED
        lines.append([title, *_ratios(cases[name], (DEFAULT, best))])
    return _table(["", "`torch.optim.SGD`", "`fused=True`"], lines)


def _cases(rows: list[Row]) -> dict[str, dict[str, Row]]:
    named = {network.name for network in NETWORKS}
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.case in named:
            suffix = "" if row.dtype == "float32" else f"-{row.dtype}"
            cases.setdefault(f"{row.case}:{row.rule}{suffix}", {})[row.contestant] = row
    return cases


def _ratios(by_contestant: dict[str, Row], rivals: tuple[str, ...]) -> list[str]:
    return [f"{by_contestant[r].ratio:.2f}" if r in by_contestant else "" for r in rivals]


def _table(heads: list[str], lines: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (heads, rule, *lines))


def in_backward_table(_: list[Row]) -> str:
    """Return what benchmarks/in_backward.py has measured."""
    with (ROOT / "benchmarks" / "in_backward.csv").open(newline="") as file:
        heads, *lines = csv.reader(file)
    return _table([head.replace("_", " ") for head in heads], lines)


PAGES = {
    ROOT / "README.md": short_table,
    ROOT / "docs" / "performance.md": full_table,
    ROOT / "docs" / "in-backward.md": in_backward_table,
}


def with_table(path: Path, rows: list[Row]) -> str:
    """Return the page with its table between the marks."""
    page = path.read_text("utf-8")
    return MARKED.sub(lambda found: found[1] + PAGES[path](rows) + found[2], page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(with_table(path, read_latest(RESULTS)), "utf-8")
