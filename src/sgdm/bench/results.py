"""The results: one row for each contestant in each case, in a CSV file that only grows."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Any

from sgdm.errors import FileError
from sgdm.files import write_atomically

__all__ = ["Machine", "Row", "append_rows", "read_latest"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What the numbers of a run depend on, beside the case.

    Attributes:
        date: When the run began, in UTC; the same in all its rows.
        sgdm: Version.
        torch: Version.
        python: Version.
        cpu: Model.
        threads: How many torch used.
        capability: The widest instructions that torch used.
    """

    date: str
    sgdm: str
    torch: str
    python: str
    cpu: str
    threads: int
    capability: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row(Machine):
    """What one contestant did in one case. Times are seconds a step; None is "not measured".

    Attributes:
        case: The network.
        tensors: How many parameters.
        elements: How many numbers they hold.
        dtype: Of parameters and gradients.
        buffer_dtype: Of the momentum buffers.
        rule: What a step did.
        contestant: Who took it.
        rounds: How many samples were taken.
        steps_per_sample: How many steps were timed at once.
        q20: A fifth of the samples stayed under it.
        median: The middle.
        q80: A fifth of the samples went over it.
        ratio: How many times as long as sgdm.
        bytes_per_step: What has to be moved at least.
        gb_per_s: That, by the median.
        fraction: Of what a bare loop over the same bytes reached in the same rounds.
        extra_memory_bytes: By how much the process grew in a step.
    """

    case: str
    tensors: int
    elements: int
    dtype: str
    buffer_dtype: str
    rule: str
    contestant: str
    rounds: int
    steps_per_sample: int
    q20: float
    median: float
    q80: float
    ratio: float
    bytes_per_step: int
    gb_per_s: float
    fraction: float | None
    extra_memory_bytes: int | None


_COLUMNS = {field.name: field.type for field in fields(Row)}
_PARSERS: dict[object, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    float | None: lambda text: float(text) if text else None,
    int | None: lambda text: int(text) if text else None,
}


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    """Add rows to the file, which is made if it is not there; all of them are added, or none.

    Raises:
        FileError: If the file holds something else, or cannot be written.
    """
    added = StringIO(newline="")
    writer = csv.writer(added, lineterminator="\n")
    old = _read_text(path) if path.exists() else ""
    if not old:
        writer.writerow(_COLUMNS)
    writer.writerows(astuple(row) for row in rows)
    text = old + added.getvalue()
    write_atomically(path, lambda file: file.write(text.encode()))


def read_latest(path: Path) -> list[Row]:
    """Return the rows of the run that was written last.

    Raises:
        FileError: If the file cannot be read, or a line of it is no row.
    """
    lines = list(csv.reader(StringIO(_read_text(path), newline="")))[1:]
    rows = [_parsed(path, number, line) for number, line in enumerate(lines, 2)]
    return [row for row in rows if row.date == rows[-1].date]


def _read_text(path: Path) -> str:
    """Return the text of a file that has the columns of a row."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"{path} cannot be read as results ({error}); choose another file"
        ) from error
    header = ",".join(_COLUMNS)
    if text and (text.partition("\n")[0] != header or not text.endswith("\n")):
        raise FileError.of(
            str(path),
            "a file of results of this version of sgdm, whole lines under the header 'date,...'",
            text.partition("\n")[0],
            "rename it, and a new one is made",
        )
    return text


def _parsed(path: Path, number: int, line: list[str]) -> Row:
    try:
        pairs = zip(_COLUMNS.items(), line, strict=True)
        return Row(**{name: _PARSERS[kind](text) for (name, kind), text in pairs})
    except ValueError as error:
        raise FileError.of(
            f"line {number} of {path}", "a row of results", ",".join(line), "take it out"
        ) from error
