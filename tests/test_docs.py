"""What the documentation says is so: its examples run, its links lead where they say."""

import doctest
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest
from typer.testing import CliRunner

import sgdm
from fresh_python import FreshPython
from sgdm.bench.results import read_latest
from sgdm.cli import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted(DOCS.rglob("*.md")),
]
FAMILIES = ("seed", "papers", "pytorch", "tensorflow-jax", "current", "classic")
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


@pytest.fixture(scope="module")
def python() -> Iterator[FreshPython]:
    python = FreshPython()
    yield python
    python.close()


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_the_examples_in_pages_print_what_they_say(python, code, output, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    done = python.run(code, folder, tmp_path)
    assert done.status == 0, done.stderr
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


def printed_by_tool(program: str) -> str:
    """What a program with the tools at hand prints."""
    arguments = [sys.executable, "-c", program]
    done = subprocess.run(
        arguments, cwd=ROOT / "tools", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


GENERATED = {
    "conventions.md": "convention_pages.conventions()",
    "pairs.md": "convention_pages.pairs()",
    "house.md": "house_page.house()",
    "numerics.md": "numerics_table.with_table()",
    **{f"conventions/{name}.md": f"convention_pages.family({name!r})" for name in FAMILIES},
}


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    """The pages as the tools make them, all in one process."""
    pages = ", ".join(f"{page!r}: {made}" for page, made in GENERATED.items())
    program = "import json, convention_pages, house_page, numerics_table\n"
    return json.loads(printed_by_tool(f"{program}print(json.dumps({{{pages}}}))"))


@pytest.mark.parametrize("page", GENERATED)
def test_a_generated_page_is_what_is_generated(generated, page):
    assert generated[page] == (DOCS / page).read_text("utf-8"), "run `make pages`"


def test_every_convention_is_on_the_page_of_a_family():
    headings = [
        name
        for family in FAMILIES
        for name in re.findall(
            r"^## `(.+)`$", (DOCS / f"conventions/{family}.md").read_text("utf-8"), re.MULTILINE
        )
    ]
    assert headings == [row.name for row in sgdm.list_conventions()]


def test_an_arrow_that_goes_up_the_house_and_a_circle_are_seen(tmp_path):
    """The check of docs/house.md can fail."""
    program = f"""
from pathlib import Path
import house_page as t
known = t.modules()
assert t.complaints(known) == []
for name, line in (
    ("errors", "import sgdm.optimizer"),
    ("audit.case", "import sgdm.audit.examine"),
):
    path = Path({str(tmp_path)!r}) / name
    path.write_text(line)
    print(t.complaints({{**known, f"sgdm.{{name}}": t.Module(f"sgdm.{{name}}", path)}})[0])
print(*t.complaints({{**known, "sgdm.new": t.Module("sgdm.new", path)}}))
"""
    up, circle, new = printed_by_tool(program).splitlines()
    assert up == "sgdm.errors imports sgdm.optimizer, which stands above it"
    assert circle.startswith("a circle: ")
    assert "sgdm.audit.case" in circle
    assert new == "new stands on no floor"


def without_versions(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.splitlines()]
    return [line for line in lines if not line.startswith("python 3")]


@pytest.mark.long
def test_the_first_five_minutes(tmp_path):
    """docs/start.md from its top to its end, in one folder."""
    page = (DOCS / "start.md").read_text("utf-8")
    blocks = re.findall(
        r"```python\n(.*?)```\n\n```text\n(.*?)```|```console\n(\$.*?)```", page, re.DOTALL
    )
    commands = 0
    for code, output, console in blocks:
        steps = re.findall(r"\$ sgdm (.*)\n((?:(?!\$ ).*\n)*)", console) or [(code, output)]
        for told, shown in steps:
            arguments = ["-c", told] if code else ["-m", "sgdm", *told.split()]
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == ("audit" in told), done.stderr
            printed, expected = (without_versions(text) for text in (done.stdout, shown))
            assert printed[-len(expected) :] == expected
            commands += 1
    assert commands == 1 + page.count("\n$ ")


@pytest.mark.long
def test_the_readme_shows_the_comparison_as_it_is_printed(tmp_path):
    """The whole run, as `make train` does it; its numbers do not depend on threads."""
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = re.search(r"\$ sgdm train (--conventions \S+)\n(.*?)```", readme, re.DOTALL)
    assert shown
    arguments = [sys.executable, "-m", "sgdm", "train", *shown[1].split()]
    done = subprocess.run(arguments, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    assert printed[-len(shown[2].splitlines()) :] == shown[2].splitlines()


def links(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"\[([^\]]+)\]\((?!https?:)([^)]+)\)", page.read_text("utf-8"))


def anchors(page: str) -> list[str]:
    """What code hosts and Sphinx call the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_headings_tests_and_lines(page):
    for text, target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        content = file.read_text("utf-8") if file.suffix in (".md", ".py") else ""
        if (name := text.strip("`")).startswith("test_"):
            assert f"def {name}(" in content, f"{page.name}: no {name} in {path}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(content), f"{page.name}: no heading {anchor} in {path}"
        elif anchor:
            line = content.splitlines()[int(anchor.removeprefix("L")) - 1]
            assert text.strip("`") in line, f"{page.name}: run tools/line_links.py for {target}"


def test_the_first_page_links_to_every_other():
    linked = {(DOCS / target).resolve() for _, target in links(DOCS / "index.md")}
    assert linked == {page.resolve() for page in DOCS.rglob("*.md")} - {DOCS / "index.md"}


def test_a_public_name_that_is_documented_nowhere_fails_the_build(tmp_path):
    shutil.copy(DOCS / "conf.py", tmp_path)
    (tmp_path / "index.md").write_text("# Nothing\n")
    arguments = [sys.executable, "-m", "sphinx", "--quiet", "--no-color", "--fail-on-warning"]
    done = subprocess.run(
        [*arguments, "--keep-going", tmp_path, tmp_path / "html"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    for module in ("sgdm", "sgdm.audit", "sgdm.engines.plan"):
        names = ", ".join(import_module(module).__all__)
        assert f"{module}: documented nowhere: {names}\n" in done.stderr


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
    text = (DOCS / page).read_text("utf-8")
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
