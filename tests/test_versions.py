"""What docs/versions.md promises: what is public, which versions are served, what a release has."""

import re
import runpy
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

import sgdm

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
# Of modules that are not public, by name.
ALONE = {
    "sgdm.files.write_atomically",
    "sgdm.in_backward.StepsInBackward",
    "sgdm.porting.NoEqualError",
}


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def project() -> dict[str, Any]:
    return tomllib.loads(read("pyproject.toml"))


def headings(changelog: str) -> list[str]:
    return re.findall(r"^## (.+)$", changelog, re.MULTILINE)


def top(version: Version) -> str:
    """How the first heading begins: a version in the making has none of its own."""
    return "Unreleased" if version.is_devrelease else f"{version} ("


def test_the_changelog_begins_with_this_version():
    assert headings(read("CHANGELOG.md"))[0].startswith(top(Version(sgdm.__version__)))


@pytest.mark.parametrize(
    ("version", "heading", "fits"),
    [
        ("0.1.0.dev0", "Unreleased", True),
        ("0.1.0", "0.1.0 (2026-12-01)", True),
        ("0.1.0", "Unreleased", False),
        ("0.2.0.dev0", "0.1.0 (2026-12-01)", False),
    ],
)
def test_a_changelog_of_another_version_is_seen(version, heading, fits):
    assert heading.startswith(top(Version(version))) is fits


def test_the_changelog_has_each_version_once_with_entries_of_known_kinds():
    changelog = read("CHANGELOG.md")
    released = [heading for heading in headings(changelog) if heading != "Unreleased"]
    assert all(re.fullmatch(r"[\d.]+(rc\d+)? \(\d{4}-\d\d-\d\d\)", heading) for heading in released)
    versions = [Version(heading.split()[0]) for heading in released]
    assert versions == sorted({*versions}, reverse=True)
    for entry in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.+)$", entry, re.MULTILINE)
        assert kinds == [kind for kind in KINDS if kind in kinds] != []


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == sgdm.__version__
    assert citation["license"] == project()["project"]["license"]
    assert citation["message"]
    assert citation["title"].startswith("sgdm: ")
    assert [author["name"] for author in citation["authors"]] == ["the sgdm authors"]


def test_the_oldest_versions_are_the_same_everywhere():
    package = project()["project"]
    assert f"`{package['requires-python']}`" in read("docs/versions.md")
    (torch,) = (text for text in package["dependencies"] if text.startswith("torch"))
    assert f"`{torch}`" in read("docs/versions.md")
    oldest = f"torch=={torch.partition('>=')[2]}.0"
    assert f"oldest: TORCH := {oldest}\n" in read("Makefile")
    assert f"[{oldest}, torch]" in read(".github/workflows/wheels.yml")


def test_the_workflow_builds_what_the_page_says_and_says_that_it_has_not_run():
    text = read(".github/workflows/wheels.yml")
    assert text.startswith("# Written, not run")
    assert "written, not run" in read("docs/versions.md")
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs.keys() == {"wheels", "sdist"}
    assert len(jobs["wheels"]["strategy"]["matrix"]["os"]) == 3
    built = project()["tool"]["cibuildwheel"]
    tests = re.findall(r"\{project\}/(\S+)", built["test-command"])
    assert tests
    assert all((ROOT / test).is_file() for test in tests)


def documented() -> set[str]:
    """The names on the pages of the API, with the modules they are in."""
    found: set[str] = set()
    for page in ("api.md", "api-extending.md"):
        module = ""
        for block in re.split(r"^(?=\.\. )", read(f"docs/{page}"), flags=re.MULTILINE):
            match = re.match(r"\.\. (\w+):: (\S+)", block)
            if not match:
                continue
            kind, name = match.groups()
            if kind.endswith("module"):
                module = name
            if kind == "automodule":
                found.add(name)
                if ":members:" in block:
                    found |= {f"{name}.{each}" for each in import_module(name).__all__}
            elif not kind.endswith("module"):
                found.add(name if name.startswith("sgdm.") else f"{module}.{name}")
    return found


def test_what_is_documented_is_what_is_public():
    public = runpy.run_path(str(DOCS / "conf.py"))["PUBLIC"]
    names = {f"{module}.{name}" for module in public for name in import_module(module).__all__}
    assert documented() == names | {*public} - {"sgdm"} | ALONE
    assert all("._" not in name.removesuffix(".__version__") for name in names)


@pytest.mark.parametrize("name", sorted(ALONE))
def test_a_name_that_is_public_alone_is_in_its_module(name):
    module, _, last = name.rpartition(".")
    assert last in import_module(module).__all__


def test_this_python_is_served():
    specifier = project()["project"]["requires-python"]
    oldest = tuple(map(int, specifier.removeprefix(">=").split(".")))
    assert sys.version_info >= oldest
