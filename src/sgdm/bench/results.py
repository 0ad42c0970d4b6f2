"""The results: one row for each thing that was timed, in CSV files that only grow."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from sgdm.errors import FileError
from sgdm.files import write_atomically

__all__ = [
    "Machine",
    "ProcessRow",
    "Row",
    "append_process_rows",
    "append_rows",
    "read_latest",
    "read_process_rows",
]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessRow(Machine):
    """What processes did together. Times are seconds, of the slowest of them.

    Attributes:
        processes: How many there were, each with `threads` threads.
        tensors: How many parameters were stepped, or tensors reduced.
        elements: How many numbers each of them holds, over all processes.
        contestant: What was timed.
        rounds: How many samples were taken.
        steps_per_sample: How many were timed at once.
        least: The fastest sample.
        q20: A fifth of the samples stayed under it.
        median: The middle.
        q80: A fifth of the samples went over it.
    """

    processes: int
    tensors: int
    elements: int
    contestant: str
    rounds: int
    steps_per_sample: int
    least: float
    q20: float
    median: float
    q80: float


_Kind = TypeVar("_Kind", bound=Machine)
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
    _append(path, rows, Row)


def append_process_rows(path: Path, rows: Sequence[ProcessRow]) -> None:
    """Do the same with what processes did together.

    Raises:
        FileError: As of `append_rows`.
    """
    _append(path, rows, ProcessRow)


def read_latest(path: Path) -> list[Row]:
    """Return the rows of the run that was written last.

    Raises:
        FileError: If the file cannot be read, or a line of it is no row.
    """
    rows = _read(path, Row)
    return [row for row in rows if row.date == rows[-1].date]


def read_process_rows(path: Path) -> list[ProcessRow]:
    """Return the rows of all runs of processes.

    Raises:
        FileError: As of `read_latest`.
    """
    return _read(path, ProcessRow)


def _append(path: Path, rows: Sequence[Machine], kind: type[Machine]) -> None:
    added = StringIO(newline="")
    writer = csv.writer(added, lineterminator="\n")
    old = _read_text(path, kind) if path.exists() else ""
    if not old:
        writer.writerow(_columns(kind))
    writer.writerows(astuple(row) for row in rows)
    text = old + added.getvalue()
    write_atomically(path, lambda file: file.write(text.encode()))


def _read(path: Path, kind: type[_Kind]) -> list[_Kind]:
    lines = list(csv.reader(StringIO(_read_text(path, kind), newline="")))[1:]
    return [_parsed(path, number, line, kind) for number, line in enumerate(lines, 2)]


def _columns(kind: type[Machine]) -> dict[str, Any]:
    return {field.name: field.type for field in fields(kind)}


def _read_text(path: Path, kind: type[Machine]) -> str:
    """Return the text of a file that has the columns of such rows."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"{path} cannot be read as results ({error}); choose another file"
        ) from error
    header = ",".join(_columns(kind))
    if text and (text.partition("\n")[0] != header or not text.endswith("\n")):
        raise FileError.of(
            str(path),
            "a file of results of this version of sgdm, whole lines under the header 'date,...'",
            text.partition("\n")[0],
            "rename it, and a new one is made",
        )
    return text


def _parsed(path: Path, number: int, line: list[str], kind: type[_Kind]) -> _Kind:
    try:
        pairs = zip(_columns(kind).items(), line, strict=True)
        return kind(**{name: _PARSERS[parser](text) for (name, parser), text in pairs})
    except ValueError as error:
        raise FileError.of(
            f"line {number} of {path}", "a row of results", ",".join(line), "take it out"
        ) from error
