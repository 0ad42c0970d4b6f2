"""The benchmark's rows: the file that they are added to, and the tables that people read."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sgdm.bench.results import Row, append_rows, read_latest
from sgdm.bench.table import case_table, duration, summary_table
from sgdm.errors import FileError

ROW = Row(
    date="2026-01-02T03:04:05+00:00",
    sgdm="0.1",
    torch="2.13",
    python="3.11",
    cpu='Some, "CPU"',
    threads=2,
    capability="AVX2",
    case="gpt2",
    tensors=148,
    elements=10**6,
    dtype="float32",
    buffer_dtype="float32",
    rule="momentum",
    contestant="sgdm",
    rounds=25,
    steps_per_sample=1,
    q20=0.9e-3,
    median=1e-3,
    q80=1.2e-3,
    ratio=1.0,
    bytes_per_step=20 * 10**6,
    gb_per_s=20.0,
    fraction=0.875,
    extra_memory_bytes=0,
)
RIVAL = replace(ROW, contestant="torch fused", ratio=1.5, fraction=None, extra_memory_bytes=None)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "steps.csv"


def test_rows_come_back_as_they_were(path):
    append_rows(path, [ROW, RIVAL])
    assert read_latest(path) == [ROW, RIVAL]
    assert len(path.read_text().splitlines()) == 3


def test_the_file_only_grows_and_the_latest_run_is_read(path):
    later = replace(ROW, date="2026-02-02T03:04:05+00:00")
    append_rows(path, [ROW, RIVAL])
    before = path.read_text()
    append_rows(path, [later])
    append_rows(path, [replace(later, case="tiny")])
    assert path.read_text().startswith(before)
    assert [row.case for row in read_latest(path)] == ["gpt2", "tiny"]
    assert path.read_text().count("date,") == 1


def test_a_file_without_rows(path):
    append_rows(path, [])
    assert read_latest(path) == []
    path.write_text("")
    append_rows(path, [ROW])
    assert read_latest(path) == [ROW]


@pytest.mark.parametrize("text", ["epoch,loss\n1,2\n", "date,sgdm\n", "no table"])
def test_another_file_is_named_and_left_alone(path, text):
    path.write_text(text)
    for use in (lambda: append_rows(path, [ROW]), lambda: read_latest(path)):
        with pytest.raises(
            FileError, match=r"steps\.csv must be a file of results.*; rename it, and a new one"
        ):
            use()
    assert path.read_text() == text


def test_half_a_row_is_not_continued(path):
    append_rows(path, [ROW])
    half = path.read_text()[:-9]
    path.write_text(half)
    with pytest.raises(FileError, match="whole lines"):
        append_rows(path, [RIVAL])
    assert path.read_text() == half


def test_a_line_that_is_no_row_is_named(path):
    append_rows(path, [ROW])
    for wrong in ("1,2,3", path.read_text().splitlines()[1].replace("148", "many")):
        append_rows(path, [])
        path.write_text("\n".join([*path.read_text().splitlines()[:2], wrong, ""]))
        with pytest.raises(FileError, match=r"line 3 of .*steps\.csv must be a row.*; take it out"):
            read_latest(path)


def test_places_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(FileError, match="cannot be written"):
        append_rows(tmp_path / "missing" / "x.csv", [ROW])
    with pytest.raises(FileError, match="cannot be read as results"):
        read_latest(tmp_path / "missing.csv")
    with pytest.raises(FileError, match="cannot be read as results"):
        append_rows(tmp_path, [ROW])


def test_a_failure_leaves_the_file_as_it_was(path, monkeypatch):
    append_rows(path, [ROW])
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sgdm.files.os.fsync", full)
    with pytest.raises(FileError, match="No space left"):
        append_rows(path, [RIVAL])
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def printed(table) -> list[str]:
    console = Console(file=StringIO(), width=80)
    console.print(table)
    return console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_table_of_a_case():
    lines = printed(case_table([ROW, RIVAL]))
    assert " ".join(lines[2].split()) == "sgdm 1.00 ms 30 % 1.00 20 20.0 88 % 0 MB"
    assert " ".join(lines[3].split()) == "torch fused 1.00 ms 30 % 1.50 20 20.0"


def test_a_small_case_shows_no_bandwidth():
    lines = printed(case_table([RIVAL]))
    assert "GB/s" not in "".join(lines)
    assert lines[2].split()[-2:] == ["1.50", "20"]


def test_the_summary_has_a_line_a_case_and_fits_a_terminal():
    names = ("default", "foreach", "fused", "compiled", "composed")
    rows = [replace(ROW, contestant=f"torch {name}", ratio=2.0) for name in names]
    other = [replace(row, case="1000x256", dtype="bfloat16") for row in (ROW, RIVAL)]
    lines = printed(summary_table([ROW, *rows, *other]))
    assert lines[0].split() == ["case", "sgdm", *names]
    assert lines[1].split() == ["gpt2:momentum", "1.00", "ms", *["2.00"] * 5]
    assert lines[2].split() == ["1000x256:momentum-bfloat16", "1.00", "ms", "1.50"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.0, "1.00 s"), (12.34, "12.3 s"), (0.5, "500 ms"), (3e-5, "30.0 µs"), (2e-8, "0.02 µs")],
)
def test_durations_have_three_digits(seconds, text):
    assert duration(seconds) == text
