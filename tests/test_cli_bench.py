"""`sgdm bench`, as a person runs it: output, files, one line for a mistake."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from sgdm.bench import cases
from sgdm.bench.networks import Network
from sgdm.bench.results import append_rows, read_latest
from sgdm.cli import main

LEAST = ["--rounds", "3", "--seconds", "0.01", "--quick"]


@pytest.fixture
def sgdm_bench(monkeypatch, capsys, tmp_path):
    """The command in this process: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sgdm", "bench", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def small_sweep(monkeypatch):
    networks = [Network(f"{n}x256", ((256,),) * n) for n in (1, 3)]
    monkeypatch.setattr(cases, "SWEEP", networks)


def test_a_case_prints_its_table_and_a_summary(sgdm_bench):
    status, out, err = sgdm_bench(*LEAST, "--case", "tiny:momentum", "--case", "tiny:nesterov")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert re.search(r", threads: \d+$", lines[0])
    assert re.match(r"sgdm \S+, torch \S+, python \S+$", lines[1])
    assert "[1/2] tiny:momentum: tensors: 6, elements: 8,970" in lines
    assert "[2/2] tiny:nesterov: tensors: 6, elements: 8,970" in lines
    assert sum(line.startswith("torch fused ") for line in lines) == 2
    assert lines[-3].split() == ["case", "sgdm", "default", "foreach", "fused"]
    assert re.fullmatch(r"tiny:nesterov +[\d.]+ [µm]s +[\d.]+ +[\d.]+ +[\d.]+", lines[-1].rstrip())
    assert max(map(len, lines)) <= 80
    assert list(Path().iterdir()) == []


def test_results_and_picture_are_written(sgdm_bench, small_sweep):
    arguments = [*LEAST, "--case", "tiny:momentum", "--csv", "a.csv", "--figure", "a.png"]
    status, out, err = sgdm_bench(*arguments)
    assert (status, err) == (0, "")
    assert out.splitlines()[-2:] == ["a.csv", "a.png"]
    assert {row.case for row in read_latest(Path("a.csv"))} == {"tiny", "1x256", "3x256"}
    assert Path("a.png").stat().st_size > 10_000
    Path("a.png").unlink()
    status, out, err = sgdm_bench("--redraw", "--csv", "a.csv", "--figure", "a.png")
    assert (status, out, err) == (0, "a.png\n", "")
    assert Path("a.png").exists()


def test_cases_that_are_done_are_kept(sgdm_bench, monkeypatch):
    from sgdm.bench import run
    from sgdm.errors import WrongResultError

    measure = run.measure_case

    def fail_at_nesterov(case, machine, effort):
        if case.rule.nesterov:
            raise WrongResultError("wrong")
        return measure(case, machine, effort)

    monkeypatch.setattr(run, "measure_case", fail_at_nesterov)
    status, _, err = sgdm_bench(*LEAST, "--case", "tiny", "--csv", "a.csv")
    assert (status, err) == (2, "sgdm: wrong\n")
    assert {row.rule for row in read_latest(Path("a.csv"))} == {"momentum"}


def efforts(monkeypatch):
    """What would be measured, in place of measuring it."""
    seen = []
    monkeypatch.setattr(
        import_module("sgdm.cli.bench"),  # its name in the package is the command's
        "_measure_all",
        lambda cases, effort, csv, measure: seen.append((cases, effort)) or [],
    )
    return seen


def test_what_the_options_ask_for(sgdm_bench, monkeypatch):
    seen = efforts(monkeypatch)
    for arguments in ([], ["--quick"], ["--quick", "--compiled"], ["--no-memory", "--rounds", "7"]):
        assert sgdm_bench(*arguments)[0] == 0
    (everything, plain), (few, quick), (_, compiled), (_, own) = seen
    assert len(everything) == 38
    assert {case.network.name for case in few} == {"tiny", "1000x256"}
    assert (plain.rounds, plain.compile_up_to, plain.memory) == (25, 200, True)
    assert (quick.rounds, quick.compile_up_to) == (5, 0)
    assert compiled.compile_up_to > 1000
    assert (own.rounds, own.memory) == (7, False)


MISTAKES = [
    (["--case", "gpt3"], "case must be one of tiny, .*, sweep, .* got 'gpt3'; as in --case gpt2"),
    (["--rounds", "2"], "rounds must be at least 3, got 2"),
    (["--seconds", "0"], "seconds must be more than 0"),
    (["--threads", "0"], "threads must be at least 1, got 0"),
    (["--csv", "none/a.csv"], "none/a.csv cannot be written"),
    (["--figure", "none/a.png"], "figure must be a file with .* got 'none/a.png'; choose such"),
    (["--figure", "a.xyz"], "figure must be a file with one of the endings .png, .svg, .pdf"),
    (["--redraw"], "--redraw must be given with --csv and --figure"),
    (["--redraw", "--csv", "none.csv", "--figure", "a.png"], "none.csv cannot be read as results"),
    (["--csv", "wrong.csv"], "wrong.csv must be a file of results"),
    (["--redraw", "--csv", "empty.csv", "--figure", "a.png"], "rows must be those of a sweep"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_a_mistake_is_one_line_and_status_2_before_anything_is_measured(
    sgdm_bench, arguments, message
):
    Path("wrong.csv").write_text("a,b\n")
    append_rows(Path("empty.csv"), [])
    status, out, err = sgdm_bench(*arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert re.match(f"sgdm: ({message})", err), err


def test_matplotlib_is_asked_for_before_the_run(sgdm_bench, monkeypatch):
    seen = efforts(monkeypatch)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, err = sgdm_bench("--figure", "a.png")
    assert (status, seen) == (2, [])
    assert "pip install 'sgdm[bench]'" in err
