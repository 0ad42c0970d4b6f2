"""The table of a benchmark, in the file beside its script."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_table(script: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, which all have the columns of the first, in place of those that were there."""
    with Path(script).with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
