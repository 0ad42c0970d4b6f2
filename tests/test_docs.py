"""What the documentation says is so: its examples run, its links lead where they say."""

import doctest
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest
from typer.testing import CliRunner

import sgdm
from sgdm.bench.results import read_latest
from sgdm.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = ["sgdm", *(m.name for m in walk_packages(sgdm.__path__, "sgdm."))]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings(name, monkeypatch):
    from sgdm import frameworks

    monkeypatch.setattr(frameworks, "_BY_NAME", dict(frameworks._BY_NAME))
    monkeypatch.setattr(frameworks, "_ALIASES", dict(frameworks._ALIASES))
    result = doctest.testmod(import_module(name))
    assert result.failed == 0


@pytest.mark.parametrize("name", [n for n in sgdm.__all__ if callable(getattr(sgdm, n))])
def test_every_public_name_has_an_example(name):
    # Records; `coefficients`, `compare_conventions` and `port_hyperparameters` show them.
    documented = (sgdm.Hyperparameters, sgdm.Coefficients, sgdm.Comparison, sgdm.Ported)
    value = getattr(sgdm, name)
    assert value.__doc__
    assert "Example:" in value.__doc__ or value in documented


def examples(page: Path) -> list[tuple[str, str]]:
    """Each python block, with the text block that follows it at once."""
    blocks = re.findall(
        r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", page.read_text("utf-8"), re.DOTALL
    )
    return list(blocks)


EXAMPLES = [
    pytest.param(code, output, id=f"{page.name}-{i}")
    for page in PAGES
    for i, (code, output) in enumerate(examples(page))
]


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_the_examples_in_pages_print_what_they_say(code, output):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == output


COMMANDS = [
    (page, command, shown)
    for page in PAGES
    for command, shown in re.findall(
        r"```console\n\$ sgdm ((?:conventions|compare)\b.*)\n((?:.+\n|\n(?!```))*)```",
        page.read_text("utf-8"),
    )
]


@pytest.mark.parametrize(
    ("page", "command", "shown"), COMMANDS, ids=[f"{page.name}: {c}" for page, c, _ in COMMANDS]
)
def test_a_command_prints_what_a_page_shows(page, command, shown):
    done = CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert done.exit_code == 0
    assert [line.rstrip() for line in done.stdout.splitlines()] == shown.splitlines()


def test_the_readme_counts_the_conventions():
    rows = sgdm.list_conventions()
    recorded = sum(row.proof == "recorded" for row in rows)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"\n{len(rows)} rules by the names" in readme
    assert f" {recorded} are tested against trajectories" in readme
    assert f" run, {sum(row.runs for row in rows)} in all," in readme


@pytest.mark.parametrize("page", ["conventions", "pairs"])
def test_the_pages_of_conventions_are_computed(page):
    program = f"import convention_pages as pages; print(pages.{page}(), end='')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT / "tools", capture_output=True, check=True
    )
    assert done.stdout.decode("utf-8") == (ROOT / "docs" / f"{page}.md").read_text("utf-8")


def test_the_readme_shows_the_comparison_as_it_is_printed(tmp_path):
    """The whole run, as `make train` does it; its numbers do not depend on threads."""
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = re.search(r"\$ sgdm train (--conventions \S+)\n(.*?)```", readme, re.DOTALL)
    assert shown
    arguments = [sys.executable, "-m", "sgdm", "train", *shown[1].split()]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    assert printed[-len(shown[2].splitlines()) :] == shown[2].splitlines()


def links(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"\[([^\]]+)\]\((?!https?:)([^)]+)\)", page.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_tests_and_lines(page):
    for text, target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve()
        assert file.exists(), f"{page.name}: {target}"
        content = file.read_text("utf-8") if file.suffix in (".md", ".py") else ""
        if (name := text.strip("`")).startswith("test_"):
            assert f"def {name}(" in content, f"{page.name}: no {name} in {path}"
        if anchor:
            line = content.splitlines()[int(anchor.removeprefix("L")) - 1]
            assert text.strip("`") in line, f"{page.name}: run tools/line_links.py for {target}"


SEED_ROWS = {
    "(1)": "torch",
    "(2)": "negated",
    "(3)": "caffe",
    "(3')": "sutskever",
    "(4)(5)": "nag",
    "(6)(7)": "sutskever",
    "(8)": "bengio",
    "(9)(10)": "bengio-lr-outside",
}


@pytest.mark.parametrize("page", ["seed.md", "seed.zh.md"])
@pytest.mark.parametrize(("equation", "convention"), SEED_ROWS.items())
def test_the_seed_pages_map_every_equation_to_its_row(page, equation, convention):
    text = (ROOT / "docs" / page).read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith(f"| {equation} |")]
    assert len(rows) == 1, rows
    assert f'[`name="{convention}"`](../src/sgdm/frameworks/seed.py#L' in rows[0]
    assert "](../tests/" in rows[0]


def test_the_speed_that_the_pages_tell_is_what_was_measured():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        tool = import_module("speed_table")
    finally:
        sys.path.remove(str(ROOT / "tools"))
    for path in tool.PAGES:
        page = path.read_text("utf-8")
        assert tool.MARKED.search(page)
        assert tool.with_table(path, read_latest(tool.RESULTS)) == page, "run tools/speed_table.py"
