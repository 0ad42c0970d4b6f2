"""Building from source: where that goes wrong, and what a package holds."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(sys.executable).parent  # cmake and ninja are installed beside Python


def configure(tmp_path, *options, **environment) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            PROGRAMS / "cmake",
            *("-S", ROOT, "-B", tmp_path, "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={PROGRAMS / 'ninja'}",
            *options,
        ],
        env={"PATH": "", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_a_compiler_one_line_says_so(tmp_path):
    done = configure(tmp_path)
    assert done.returncode != 0
    assert [line.strip() for line in done.stderr.splitlines() if "compiler" in line] == [
        "sgdm needs a C++17 compiler to be built from source and found none; install g++ or "
        "clang++ (Debian: apt install g++), or a wheel, which needs none"
    ]


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """The sdist and its wheel, and in a folder beside them the wheel of the tree.

    Without what is compiled: that takes long, and `make wheel` does it.
    """
    folder = tmp_path_factory.mktemp("packages")
    for arguments in (["--outdir", folder], ["--outdir", folder / "tree", "--wheel"]):
        subprocess.run(
            [
                *(sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check"),
                *("--config-setting", "wheel.cmake=false", *arguments, ROOT),
            ],
            stdout=subprocess.PIPE,
            check=True,
        )
    return folder


def in_tree(*folders: str) -> set[str]:
    """The files of a checkout below these folders, but for what running leaves there."""
    paths = [path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.*")]
    return {
        path.as_posix()
        for path in paths
        if (ROOT / path).is_file() and not {"__pycache__", ".hypothesis"} & {*path.parts}
    }


def test_the_sdist_has_what_a_build_and_the_tests_need(packages):
    (path,) = packages.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    texts = {
        "CHANGELOG.md",
        "CITATION.cff",
        ".github/workflows/wheels.yml",
        "LICENSE",
        "README.md",
        "PKG-INFO",
    }
    assert {"CMakeLists.txt", "pyproject.toml", "constraints.txt", "Makefile"} | texts <= held
    assert in_tree("src", "native", "tests", "docs") <= held
    tops = {name.partition("/")[0] for name in held}
    assert not tops & {".ci", ".git", ".venv", "build", "dist", "runs", "tools"}


def test_a_wheel_from_the_sdist_is_the_one_from_the_tree(packages):
    held = []
    for folder in (packages, packages / "tree"):
        (path,) = folder.glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            held.append({name: wheel.read(name) for name in wheel.namelist()})
    assert held[0] == held[1]
    ours = {name for name in held[0] if name.startswith("sgdm/")}
    assert {f"src/{name}" for name in ours} == in_tree("src")
